"""The market on PostgreSQL, on real parts: sold, called, killed amid it, verified; nothing of it is in SQLite."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import requests

from control_plane.flows.keep import request_anchor
from deploy.demo.models import OWN_NAME, choose_model
from deploy.progress import Steps
from tests.fixtures_database import PostgresServer
from tests.fixtures_stack import REPOSITORY, LiveStack, running_stack, within

pytestmark = [pytest.mark.live, pytest.mark.long]

PROMPT = "The market stands at the end of"


def is_ready(stack: LiveStack) -> bool:
    return requests.get(f"{stack.settings.public_url}/readyz", timeout=30).status_code == 200


def test_the_story_holds_on_postgresql_and_goes_on_after_its_server_was_killed(postgresql: PostgresServer, tmp_path: Path) -> None:
    postgresql.start()
    home = tmp_path / "home"
    home.mkdir()
    trained = REPOSITORY / ".posthuman" / "demo"
    if trained.is_dir():
        shutil.copytree(trained, home / "demo")
    model = choose_model(None, home, Steps(is_quiet=True)).model
    with postgresql.bare_database() as url, running_stack(home, POSTHUMAN_DATABASE_URL=url) as stack:
        stack.environ.pop("POSTHUMAN_DATABASE_URL")  # from here on as `up` has written it down

        def call(*options: str) -> str:
            called = stack.run("call", did, PROMPT, "--as", "bob", "--max-tokens", "4", "--json", *options)
            assert called.code == 0, called.out + called.err
            return str(called.json["file"])

        published = stack.run(
            "publish", model, "--as", "carol", "--price", "1", "--name", OWN_NAME, "--licence", "apache-2.0", "--json"
        )
        assert published.code == 0, published.out + published.err
        did = published.json["did"]
        assert stack.run("buy", did, "--as", "bob", "--json").code == 0
        receipts = [call(), call("--stream")]

        postgresql.end(signal.SIGKILL)
        refused = stack.run("call", did, PROMPT, "--as", "bob", "--json")
        assert refused.code == 4, refused.out + refused.err
        assert not is_ready(stack)
        postgresql.start()
        within(lambda: is_ready(stack), "a market that is ready again")
        receipts.append(call())

        def is_verified() -> bool:
            request_anchor(home / "run")
            against = ("--rpc", stack.settings.rpc_url, "--log", f"{stack.settings.public_url}/log")
            return stack.run("verify", *receipts, *against, "--json").code == 0

        within(is_verified, "every receipt verified against chain and log")
        database = url.rsplit("/", 1)[1]
        assert postgresql.ask("SELECT sequence FROM receipts ORDER BY sequence", database) == [(0,), (1,), (2,)]
        assert not (home / "posthuman.db").exists()
        logs = "".join(path.read_text(errors="replace") for path in (home / "logs").iterdir())
        assert logs
        assert postgresql.password not in logs
