"""Makes ocean-lib 3.1.2 usable on Python 3.11, and quiet. Imported before anything of ocean-lib.

In: nothing. Out: `contract_definition`, the one thing we take from ocean-lib. This module must never change a version of
ocean-lib that it was not written for.

The fault: enforce-typing 1.0.0.post1 asks `isinstance(value, typing.Any)`. On Python 3.11 `typing.Any` became a class that refuses
this with TypeError, so every ocean-lib function with an `Any` argument (start_order, initialize, pay_for_...) fails. Its last
release is of 2019, and ocean-lib 3.1.2 pins it. The fix replaces its decorator by one that leaves functions as they are; types are
checked by mypy here. It is gone when `is_needed` is False: enforce-typing has another version, or ocean-lib stopped using it.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import cache
from importlib.metadata import version
from typing import Any, TypeVar

_Wrapped = TypeVar("_Wrapped")

WRITTEN_FOR = {"ocean-lib": "3.1.2", "enforce-typing": "1.0.0.post1"}


def is_needed() -> bool:
    """True while the installed versions are the ones with the fault, on a Python that shows it."""
    return sys.version_info >= (3, 11) and all(version(name) == number for name, number in WRITTEN_FOR.items())


def _leave_as_it_is(wrapped: _Wrapped) -> _Wrapped:
    return wrapped


def apply() -> bool:
    """Replace the decorator if that is needed, and say whether it was. Again: replaces it by itself.

    Raises RuntimeError when ocean-lib was imported before: its functions were wrapped by then and would stay broken.
    """
    if not is_needed():
        return False
    import enforce_typing

    if enforce_typing.enforce_types is not _leave_as_it_is and "ocean_lib" in sys.modules:
        raise RuntimeError("import control_plane.chain.ocean_fix before ocean_lib")
    enforce_typing.enforce_types = _leave_as_it_is
    enforce_typing.decorator.enforce_types = _leave_as_it_is
    return True


def quieten() -> None:
    """Keep ocean-lib's loggers to warnings. Its `example_config` calls logging.basicConfig: we never import it."""
    logging.getLogger("ocean_lib").setLevel(logging.WARNING)


apply()
quieten()


@cache
def contract_definition(name: str) -> dict[str, Any]:
    """ABI and bytecode of one of Ocean's contracts, as ocean-lib finds them. Raises KeyError for a name it does not know."""
    from ocean_lib.web3_internal.contract_utils import get_contract_definition

    try:
        definition: dict[str, Any] = get_contract_definition(name)
    except (TypeError, json.JSONDecodeError) as error:
        raise KeyError(name) from error
    return definition
