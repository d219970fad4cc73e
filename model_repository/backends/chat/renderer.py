"""The process that renders a model's chat template: started, asked, and replaced when it ended.

In: a template, conversations. Out: prompts, or Refused. This module must never run a template in its own process.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chat.child import CPU_S
from chat.messages import FIELD, Message
from opening.refusal import Refused

_CHILD = Path(__file__).with_name("child.py")
_WALL_S = 20.0
"""On a machine where others take the processor; the child's own limit counts its processor time."""
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ")
_READ_BYTES = 1 << 16


class Renderer:
    """Of one template. Not for several threads at once."""

    def __init__(self, template: str, special_tokens: Mapping[str, Any]) -> None:
        self._told = {"template": template, "special_tokens": dict(special_tokens)}
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, up to where the model is to answer. Raises Refused for a conversation that the template does not take.

        A template that takes too long, or too much memory, loses its process; the next call starts another.
        """
        if self._process is None:
            self._process = _started()
            self._end = weakref.finalize(self, _ended, self._process)
            self._send(self._told)
        self._send(list(messages))
        line = self._line()
        if not line.endswith(b"\n"):
            self.close()
            expected = f"a conversation that the model's chat template renders within {CPU_S:g} s of processor time"
            raise Refused(FIELD, expected, "one for which it takes more, or runs out of memory")
        answer = json.loads(line)
        if "prompt" not in answer:
            raise Refused(FIELD, "a conversation that the model's chat template takes", answer["refusal"])
        return str(answer["prompt"])

    def close(self) -> None:
        """End the process; so does whoever drops this object. Again: does nothing."""
        if self._process is not None:
            self._end()
            self._process = None

    def _send(self, what: object) -> None:
        if self._process is None or self._process.stdin is None:
            return
        left = memoryview(json.dumps(what).encode("ascii") + b"\n")
        try:
            while left:
                left = left[self._process.stdin.write(left) :]
        except BrokenPipeError:  # it has ended; what it then says is nothing, which `render` takes for that
            return

    def _line(self) -> bytes:
        """One line, or what there was of it when the process ended or took too long."""
        line, until = b"", time.monotonic() + _WALL_S
        if self._process is None or self._process.stdout is None:
            return line
        stream = self._process.stdout.fileno()
        while not line.endswith(b"\n"):
            is_there, _, _ = select.select([stream], [], [], max(0.0, until - time.monotonic()))
            part = os.read(stream, _READ_BYTES) if is_there else b""
            if not part:
                break
            line += part
        return line


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [_python(), "-I", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    )


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _python() -> str:
    """Triton's stub is no Python itself; it takes its packages from the first `python3` on PATH, which is then ours too."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    found = shutil.which("python3")
    if found is None:
        raise FileNotFoundError("python3: expected on PATH, to render chat templates")
    return found
