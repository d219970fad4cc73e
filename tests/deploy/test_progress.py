"""What people see while something lasts: the step, and what of it is under way."""

from __future__ import annotations

import io
import time
from contextlib import ExitStack

import pytest

from deploy import progress
from deploy.progress import Steps
from deploy.selling import Progress


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REMIND_S", 0.02)


def wait_for(out: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 5
    while text not in out.getvalue():
        assert time.monotonic() < deadline, out.getvalue()
        time.sleep(0.01)


def test_a_long_step_says_what_is_under_way() -> None:
    out = io.StringIO()
    with Steps(out).step("starting") as show:
        wait_for(out, "starting ... 0 s")
        show("triton")
        wait_for(out, "starting (triton) ... 0 s")
    assert out.getvalue().splitlines()[-1].startswith("  starting: 0.")


def test_a_quiet_step_says_nothing() -> None:
    out = io.StringIO()
    with Steps(out, is_quiet=True).step("starting") as show:
        show("triton")
    assert out.getvalue() == ""


def test_a_publication_names_its_step_and_the_conversions_stage_while_they_last() -> None:
    out = io.StringIO()
    with ExitStack() as running:
        told = Progress(Steps(out), running)
        told("convert", None)
        wait_for(out, "convert to ONNX, compare with PyTorch (fetch) ...")
        for stage in ("fetch", "scan", "start", "load"):
            told.converted(stage, 0.1)
        wait_for(out, "convert to ONNX, compare with PyTorch (export) ...")
        told("convert", {"entry": "m-1", "seconds": 0.1})
        told("digest", None)
        wait_for(out, "model digest on chain ...")
        told("digest", {"transaction": "0x1", "block": 5, "seconds": 0.1})
    lines = out.getvalue()
    assert "  convert to ONNX, compare with PyTorch: 0." in lines
    assert "transaction 0x1" in lines
    assert "block" not in lines


def test_a_step_that_raises_is_shown_as_failed() -> None:
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError), ExitStack() as running:
        Progress(Steps(out), running)("asset", None)
        raise ZeroDivisionError
    assert "data NFT, datatoken and price, one transaction: failed after" in out.getvalue()
