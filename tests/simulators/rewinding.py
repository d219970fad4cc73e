"""Blocks that a simulated chain undoes, as `evm_snapshot` and `evm_revert` let anvil do.

In: the ledger's own state. Out: the same as it was. This module must never know what a contract does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable


class Rewindable:
    branch = ""
    """In the hash of every block that is mined from now on: another one after each time that blocks were undone."""

    def remember(self) -> Callable[[], None]:
        """Returns what takes the chain back to where it is now; blocks that follow then have other hashes."""
        kept = copy.deepcopy({name: value for name, value in vars(self).items() if name != "branch"})

        def undo() -> None:
            branch = self.branch + "'"
            vars(self).clear()
            vars(self).update(copy.deepcopy(kept), branch=branch)

        return undo
