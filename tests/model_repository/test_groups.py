"""Which texts go together: laws that hold for any lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from predict.groups import MOST_ROWS, PASS_TOKENS, Joining

LENGTHS = st.lists(st.integers(1, 600), max_size=200)


@given(LENGTHS, st.booleans(), st.booleans())
def test_every_text_is_in_one_group_and_no_group_is_too_large(lengths: list[int], pads: bool, joins: bool) -> None:
    groups = Joining(most=512, pads=pads, joins=joins).groups(lengths)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        own = [lengths[place] for place in group]
        assert len(group) == 1 or (joins and len(group) <= MOST_ROWS and len(group) * max(own) <= 512)
        assert pads or len(set(own)) == 1


@given(LENGTHS)
def test_padding_never_costs_more_than_one_more_pass_would(lengths: list[int]) -> None:
    for group in Joining(most=512, pads=True, joins=True).groups(lengths):
        own = [lengths[place] for place in group]
        assert sum(max(own) - length for length in own) <= PASS_TOKENS


def test_short_groups_come_first_and_near_lengths_share_one() -> None:
    joining = Joining(most=512, pads=True, joins=True)
    assert joining.groups([40, 9, 300, 8, 44, 10]) == [[5, 1, 3], [4, 0], [2]]
    assert joining.groups([256, 256, 256]) == [[2], [0, 1]]
    assert Joining(most=512, pads=False, joins=True).groups([9, 8, 9]) == [[1], [0, 2]]
