"""A market on simulators, for every test of the web surfaces."""

from tests.fixtures_market import market

__all__ = ["market"]
