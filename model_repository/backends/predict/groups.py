"""Which items go through the graph together, so that padding does not eat what is gained by it.

In: the items' lengths. Out: groups of them. This module must never look at what an item holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PASS_TOKENS = 18
"""What a forward pass costs beyond its tokens, in tokens: it reads every weight. MiniLM on one core: 1.8 ms, and 0.1 ms a token.
The ratio is the processor's more than the model's, since both grow with the weights."""
MOST_ROWS = 64


@dataclass(frozen=True)
class Joining:
    """What may stand together in one pass.

    most: tokens of a pass, padding counted, if a single item is not longer. pads: may items of different lengths be padded to the
    longest? joins: may an item stand beside another at all?
    """

    most: int
    pads: bool
    joins: bool

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places in `lengths`, each once, those of the shortest items first.

        A group takes the longest item that is left, and then shorter ones while their padding costs less than one more pass would.
        """
        places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        groups: list[list[int]] = []
        longest = padding = 0
        for place in places:
            padding += longest - lengths[place]
            if not groups or not self._fits(len(groups[-1]), longest, lengths[place], padding):
                groups.append([])
                longest, padding = lengths[place], 0
            groups[-1].append(place)
        return groups[::-1]

    def _fits(self, rows: int, longest: int, length: int, padding: int) -> bool:
        """May an item join a group of so many rows? padding: of all its items with this one."""
        is_alike = longest == length or (self.pads and padding <= PASS_TOKENS)
        return self.joins and is_alike and rows < MOST_ROWS and (rows + 1) * longest <= self.most
