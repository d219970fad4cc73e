"""Puts Python's recursion limit back to its default. Imported wherever eth-account or web3 is.

In: nothing. Out: nothing. This module must never raise the limit.

py-ecc 8.0.0, which eth-account imports, sets the limit to 100,000. A list nested 100,000 deep in somebody's JSON then overruns the
C stack and ends the process, where Python would have raised RecursionError. Gone when `sys.getrecursionlimit()` stays at 1000
after `import py_ecc`.
"""

from __future__ import annotations

import sys

import py_ecc  # noqa: F401  # so that its side effect lies behind us, whoever imports it later

DEFAULT = 1000
"""CPython's own."""

sys.setrecursionlimit(DEFAULT)
