"""Compute environments: what a job may run on, and what its time costs.

In: what the operator offers. Out: frozen environments, their fees, Ocean's JSON form of them. This module must never sign a fee,
nor look at a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from control_plane.did import Address, TokenWei
from control_plane.errors import BadInput, NotFound
from control_plane.settings import JobSettings

PAID, FREE = "posthuman", "posthuman-free"
"""Ids of the environments that `offered` makes."""
_MINUTE_S = 60
_WEI = Decimal(10**18)


@dataclass(frozen=True)
class Environment:
    """price: wei of `fee_token` for a minute; 0: free. consumer: an order whose payer is the job's owner may name it as consumer,
    as Ocean's clients do. max_duration_s: what one order may pay for. max_jobs: under way at once; max_jobs_of_an_owner: of them.
    kept_s: how long a job's result is kept at least.
    """

    id: str
    description: str
    price: TokenWei
    fee_token: Address
    consumer: Address
    cpus: int
    cpu_type: str
    gpus: int
    gpu_type: str
    ram_gb: int
    disk_gb: int
    max_duration_s: int
    max_jobs: int
    max_jobs_of_an_owner: int
    kept_s: int

    @property
    def is_free(self) -> bool:
        return self.price == 0

    def fee(self, duration_s: int) -> TokenWei:
        """Wei that `duration_s` seconds cost, a part of a wei counted as one. Raises BadInput for a time that is not offered.

        Of all seconds: Ocean Provider 2.1.6 takes `timedelta.seconds`, the rest after whole days, so that 25 hours cost one.
        """
        if not 1 <= duration_s <= self.max_duration_s:
            raise BadInput("duration_s", f"a whole number of seconds from 1 to {self.max_duration_s} in {self.id}", duration_s)
        return TokenWei(-(-self.price * duration_s // _MINUTE_S))

    def to_ocean(self, under_way: int, chain_id: int, now: float) -> dict[str, Any]:
        """As Ocean Provider lists it. under_way: its jobs that are not over. now: seconds since 1970.

        `priceMin` is in whole tokens and a float, which is what clients make of it; what is charged is exact.
        """
        return {
            "id": self.id,
            "consumerAddress": self.consumer,
            "priceMin": 0 if self.is_free else float(self.price / _WEI),
            "feeToken": self.fee_token,
            "cpuNumber": self.cpus,
            "cpuType": self.cpu_type,
            "gpuNumber": self.gpus,
            "gpuType": self.gpu_type,
            "ramGB": self.ram_gb,
            "diskGB": self.disk_gb,
            "desc": self.description,
            "currentJobs": under_way,
            "maxJobs": self.max_jobs,
            "storageExpiry": self.kept_s,
            "maxJobDuration": self.max_duration_s,
            "lastSeen": int(now),
            "allowedChainId": [chain_id],
        }


def offered(settings: JobSettings, fee_token: Address, consumer: Address) -> tuple[Environment, ...]:
    """What the operator's settings offer: the paid environment, and the free one unless it is switched off."""

    def one(name: str, description: str, price: int, max_duration_s: int, max_jobs: int, max_jobs_of_an_owner: int) -> Environment:
        return Environment(
            id=name,
            description=description,
            price=TokenWei(price),
            fee_token=fee_token,
            consumer=consumer,
            cpus=settings.cpus,
            cpu_type=settings.cpu_type,
            gpus=settings.gpus,
            gpu_type=settings.gpu_type,
            ram_gb=settings.ram_gb,
            disk_gb=settings.disk_gb,
            max_duration_s=max_duration_s,
            max_jobs=max_jobs,
            max_jobs_of_an_owner=max_jobs_of_an_owner,
            kept_s=settings.kept_s,
        )

    paid = one(PAID, "Paid by the minute", settings.price, settings.max_s, settings.queue, settings.queue)
    if not settings.free_s:
        return (paid,)
    trying = "Free, for trying: short jobs, few at once"
    return (paid, one(FREE, trying, 0, settings.free_s, settings.free_queue, 1))


def find(environments: Sequence[Environment], name: object) -> Environment:
    """Raises NotFound with code environment_unknown."""
    for environment in environments:
        if environment.id == name:
            return environment
    known = " or ".join(environment.id for environment in environments)
    raise NotFound.named("environment", known, name, code="environment_unknown")
