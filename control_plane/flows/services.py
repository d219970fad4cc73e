"""What a running market is made of: the parts that flows and web use.

In: nothing. Out: the frozen record `Services`, which `wiring.py` fills. This module must never build a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from control_plane.chain.compute import Algorithm
from control_plane.chain.ledger import Ledger, Network, Wallet
from control_plane.jobs.environments import Environment
from control_plane.jobs.states import Kind
from control_plane.jobs.store import JobStore
from control_plane.provider.provider import Provider
from control_plane.receipts.evaluations import Evaluations
from control_plane.receipts.store import ReceiptStore
from control_plane.serving.catalogue import Catalogue
from control_plane.serving.inference import InferenceServer
from control_plane.serving.limits import CallLimits
from control_plane.serving.prompts import Prompts
from control_plane.serving.sessions import Sessions
from control_plane.settings import Settings


@dataclass(frozen=True)
class Services:
    """operator: signs provider fees and receipts. environments: what jobs may run on. algorithms: the market's own. clock: seconds
    since 1970, UTC."""

    settings: Settings
    network: Network
    ledger: Ledger
    server: InferenceServer
    catalogue: Catalogue
    sessions: Sessions
    store: ReceiptStore
    limits: CallLimits
    prompts: Prompts
    operator: Wallet
    jobs: JobStore
    evaluations: Evaluations
    environments: tuple[Environment, ...]
    provider: Provider
    algorithms: Mapping[Kind, Algorithm]
    clock: Callable[[], float]
