"""`python -m converters.tensorrt ENTRY --out DIR`: build a plan for Triton's tensorrt backend from an entry.

In: the command line. Out: a folder `DIR/<name>/` with `1/model.plan`, `config.pbtxt` and `plan.json`. This module must never change
the entry.

Exit codes: 0 built, or printed with --print; 2 usage; 4 the build failed, or an axis is not known; 6 the entry, or with --verify
the plan, is not what it says; 7 not built: there is no GPU or no TensorRT here.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from converters.entry import model_digest, read_entry, triton_name
from converters.errors import ConverterError
from converters.pbtxt import plan_pbtxt
from converters.tensorrt.build import find_builder, trtexec_command
from converters.tensorrt.profiles import Profile, Span, profiles_of
from converters.tensorrt.statement import PLAN, state, verify, write_statement


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m converters.tensorrt", description="Build a TensorRT plan from an entry.")
    parser.add_argument("entry", type=Path, metavar="ENTRY", help="the entry's folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the plan's folder is made")
    parser.add_argument("--max-batch", type=int, default=8, metavar="N", help="largest batch (default: 8)")
    parser.add_argument("--axis", action="append", type=_axis, default=[], metavar="NAME=LEAST,USUAL,MOST", help="an axis' length")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--print", action="store_true", dest="is_printed", help="show profiles, command and config.pbtxt; build nothing"
    )
    what.add_argument("--verify", type=Path, metavar="PLAN", help="check a plan's folder against its statement and this entry")
    given = parser.parse_args(arguments)
    if given.out is None and not given.is_printed and given.verify is None:
        parser.error("--out is needed to build")
    if given.max_batch < 1:
        parser.error("--max-batch must be at least 1")
    try:
        if given.verify is not None:
            statement = verify(given.verify, given.entry)
            where = f"{statement.gpu.architecture}, TensorRT {statement.tensorrt}"
            print(f"{statement.digest()} is a plan of {statement.entry} for {where}")
            return 0
        entry = read_entry(given.entry)
        profiles = profiles_of(entry.details, given.max_batch, dict(given.axis))
        if given.is_printed:
            _show(given.entry, profiles)
            return 0
        print(_build(given.entry, given.out, profiles), file=sys.stderr)
    except ConverterError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _show(folder: Path, profiles: tuple[Profile, ...]) -> None:
    entry, digest = read_entry(folder), model_digest(folder)
    print(json.dumps([profile.to_json() for profile in profiles], indent=1))
    print(shlex.join(trtexec_command(folder / entry.details["model"], profiles, Path("model.plan"))))
    print(plan_pbtxt(entry, triton_name(digest) + "-plan", digest, "0x" + "0" * 64, len(profiles)), end="")


def _build(folder: Path, out: Path, profiles: tuple[Profile, ...]) -> Path:
    """Again: replaces the plan of the same entry, since no two builds are alike."""
    builder = find_builder()
    entry, digest = read_entry(folder), model_digest(folder)
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=out))
    try:
        (scratch / "1").mkdir()
        builder.build(folder / entry.details["model"], profiles, scratch / PLAN)
        statement = state(folder, scratch / PLAN, builder.gpu, builder.tensorrt, entry.precision, profiles)
        write_statement(scratch, statement)
        name = triton_name(digest) + "-plan"
        text = plan_pbtxt(entry, name, digest, statement.digest(), len(profiles))
        (scratch / "config.pbtxt").write_text(text, encoding="utf-8")
        scratch.chmod(0o755)
        target = out / name
        if target.exists():
            shutil.rmtree(target)
        return scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _axis(text: str) -> tuple[str, Span]:
    name, _, lengths = text.partition("=")
    try:
        least, usual, most = map(int, lengths.split(","))
        return name, Span(least, usual, most)
    except (ValueError, ConverterError) as error:
        raise argparse.ArgumentTypeError(f"expected NAME=LEAST,USUAL,MOST, found {text!r}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
