"""The market around a log, for the tests of this folder."""

from tests.fixtures_log import market

__all__ = ["market"]
