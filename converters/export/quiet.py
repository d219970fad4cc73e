"""Keep the libraries' chatter from the terminal, and show it when they fail.

In: a block of work. Out: what was said meanwhile. This module must never hide an error.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keep the libraries' chatter from the terminal; what they said is shown when they fail.

    Tracing warns about every `if` on a tensor; parity at sizes other than the traced ones is what answers those warnings.
    """
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    libraries = [logging.getLogger(name) for name in ("transformers", "optimum", "torch.onnx")]
    before = [(library, library.handlers[:], library.propagate) for library in libraries]
    for library in libraries:
        library.handlers, library.propagate = [handler], False
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield said
    finally:
        for library, handlers, propagate in before:
            library.handlers, library.propagate = handlers, propagate


def said_in(noise: io.StringIO) -> str:
    text = " ".join(noise.getvalue().split())
    return f" (the library said: {text[-600:]})" if text else ""
