"""What the commands that buy jobs have in common: whose wallet, which market, what is paid for, and the way to the job's end.

In: a command's options. Out: a job in the queue, or at its end. This module must never pay before it has shown the price.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from control_plane.chain.ocean import OceanLedger, open_ledger
from control_plane.did import TokenWei
from control_plane.errors import BadInput
from control_plane.flows.offer import Offer
from control_plane.flows.order import most_for_one
from control_plane.jobs.environments import PAID
from control_plane.settings import Settings, read_settings
from deploy import exits
from deploy.buyer import BuyerFiles
from deploy.commands.trade import token_wei, tokens
from deploy.job_results import call_of
from deploy.job_showing import job_lines, print_changes, show_bar
from deploy.job_trading import Due, Wanted, follow, order_job, with_any_session
from deploy.market import Market
from deploy.progress import Steps
from deploy.wallets import chosen_wallet

USUAL_ASKING_S = 600
"""What is paid for unless asked otherwise, of jobs that ask the served model: a hundred texts take a minute or two."""
Result = TypeVar("Result")
_GOOD_ENDS = frozenset({"finished"})


def payment_options(usual_minutes: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds `--environment`, `--minutes` and `--max-price`. usual_minutes: for the help; see `duration`."""
    options = (
        click.option("--environment", default=PAID, show_default=True, help="Where the job runs, see GET /v1/environments."),
        click.option(
            "--minutes",
            type=click.IntRange(1),
            help=f"Of computing to pay for; default: {usual_minutes}, or the environment's most.",
        ),
        click.option(
            "--max-price", help="OCEAN that all of it may cost; default: of model and dataset each twice its price plus 1."
        ),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


class Buyer:
    """Whose command this is, and where."""

    def __init__(self, account: str | None, keystore: Path | None, url: str | None) -> None:
        self.settings: Settings = read_settings()
        self.wallet = chosen_wallet(self.settings, account, keystore)
        self.files = BuyerFiles(self.settings.home, self.wallet.address)
        self.market = Market(url or self.settings.public_url)

    @property
    def ledger(self) -> OceanLedger:
        settings = self.settings
        return open_ledger(settings.rpc_url, settings.chain_id, self.files.folder / "outbox", settings.confirmations)

    def ask(self, ask: Callable[[str], Result]) -> Result:
        return with_any_session(self.market, self.wallet, self.files, self.settings.chain_id, ask)

    def order(self, wanted: Wanted, max_price: str | None, told: Steps) -> dict[str, Any]:
        """Show the whole price, pay it, and put the job into the queue. Raises and Again: as `order_job`."""
        most: TokenWei | None = None if max_price is None else token_wei(max_price, "--max-price")

        def tell(due: Due) -> None:
            for line in price_lines(due, wanted):
                told.say(line)

        with told.step("paying and putting the job into the queue"):
            return order_job(self.market, self.ledger, self.wallet, self.files, wanted, tell, most)

    def follow(self, job_id: str, is_json: bool) -> None:
        """Show the job until it is over, and how it ended; ends the process with code 1 unless it ended well."""
        shown = self._look(job_id)
        last = print_changes(shown) if is_json else show_bar(shown)
        kept = self.keep(last)
        if not is_json:
            for line in [*job_lines(last), *kept_lines(last, kept)]:
                click.echo(line)
        if last["state"] not in _GOOD_ENDS:
            raise SystemExit(exits.FAILED)

    def finished(self, job_id: str, is_json: bool) -> dict[str, Any]:
        """The job when it has ended well, with a bar until then; one that has not is shown, and ends the process with code 1."""
        shown = self._look(job_id)
        last = deque(shown, maxlen=1)[0] if is_json else show_bar(shown)
        if last["state"] not in _GOOD_ENDS:
            exits.show(last, job_lines(last), is_json)
            raise SystemExit(exits.FAILED)
        return last

    def keep(self, job: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> Path | None:
        """Keep a batch of prompts with its receipt, as a call is kept; None for a job that has none. Raises as `call_of`.
        Again: the same file."""
        call = call_of(job, self.wallet.address, asked)
        return None if call is None else self.files.keep_call(call)

    def _look(self, job_id: str) -> Iterator[dict[str, Any]]:
        return follow(lambda: self.ask(lambda token: self.market.job(token, job_id)))


def kept_lines(job: Mapping[str, Any], kept: Path | None) -> list[str]:
    """What is said of a job's receipt, and where it is."""
    return [] if kept is None else [f"receipt {job['receipt']['id']}, kept in {kept}"]


def duration(environments: list[dict[str, Any]], environment: str, minutes: int | None, usual_s: int = 3600) -> int:
    """Seconds to pay for. Raises BadInput for an environment that is not offered."""
    if minutes is not None:
        return minutes * 60
    for each in environments:
        if each["id"] == environment:
            return min(usual_s, int(each["max_duration_s"]))
    raise BadInput("--environment", " or ".join(str(each["id"]) for each in environments) or "one that is offered", environment)


def price_lines(due: Due, wanted: Wanted) -> list[str]:
    lines = [] if due.model is None else _model_lines(due.model, wanted)
    if due.dataset is not None:
        if due.dataset_order_refused is not None:
            lines.append(f"the dataset was paid for before, but not for this job: {due.dataset_order_refused}")
        lines += [
            f"one datatoken of the dataset: at most {tokens(most_for_one(due.dataset))} OCEAN, the exchange's fees inside",
            f"to where the dataset was published: {tokens(due.dataset.publish_fee)} OCEAN",
        ]
    return [*lines, f"in all at most {tokens(due.cost)} OCEAN"]


def _model_lines(offer: Offer, wanted: Wanted) -> list[str]:
    return [
        f"one datatoken of the model: at most {tokens(most_for_one(offer))} OCEAN, the exchange's fees inside",
        f"to the marketplace owner: {tokens(offer.publish_fee)} OCEAN",
        f"{wanted.duration_s} s of computing in {wanted.environment}: {tokens(offer.provider_fee.amount)} OCEAN",
    ]
