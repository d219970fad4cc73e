"""A market on simulators, for every test of the web surfaces."""

from tests.control_plane.web.asking import opened
from tests.fixtures_market import market

__all__ = ["market", "opened"]
