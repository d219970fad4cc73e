"""`python -m converters.coverage`: the table of every model type that transformers knows.

    shapes [TYPE ...] [--out DIR]     build the tiny models alone, and say which fail and why
    sweep [--only TYPE ...]           convert, serve and compare; rows go to a file that survives a kill
    table                             write docs/model-coverage.md and .json from the rows

In: the command line, and a running Triton, or the command that starts one. Out: rows, documents, a line of progress.
Exit codes: 0 done, 1 something could not be done, 2 usage. This module must never decide whether a type is supported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.child import OFFLINE, QUIET
from converters.coverage import attempts
from converters.coverage.heads import model_types
from converters.coverage.replay import Server
from converters.coverage.rows import Row, chosen, read_rows, steady
from converters.coverage.serving import Serving
from converters.coverage.sweep import JOBS, Settings, sweep
from converters.coverage.table import write_table

STATE = Path(".posthuman") / "coverage"
START_TRITON = "{python} -m deploy.local.triton_alone --folder {folder}"
_SHOWN = 100


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m converters.coverage", description="Which model types are converted and served."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shapes = commands.add_parser("shapes", help="build tiny models")
    shapes.add_argument("types", nargs="*", metavar="TYPE")
    shapes.add_argument("--out", type=Path, metavar="DIR", help="keep the models there, a folder a type")
    run = commands.add_parser("sweep", help="convert, serve, compare")
    run.add_argument("--state", type=Path, default=STATE, metavar="DIR", help=f"for rows and scratch (default: {STATE})")
    run.add_argument("--only", nargs="+", default=[], metavar="TYPE", help="these types, done before or not")
    run.add_argument("--retry", choices=["failed"], help="do those again that were not supported")
    run.add_argument("--fresh", action="store_true", help="forget all rows first")
    run.add_argument("--jobs", type=int, default=1, choices=range(1, JOBS + 1), help="conversions at a time")
    run.add_argument("--limit", type=int, default=attempts.LIMIT_S, metavar="SECONDS", help="of each conversion")
    run.add_argument("--memory", type=int, default=attempts.MEMORY_BYTES >> 20, metavar="MIB", help="of each conversion")
    server = run.add_argument_group("Triton: one that runs, or the command that starts one and prints {url, models, key} as JSON")
    server.add_argument("--triton", metavar="URL")
    server.add_argument("--models", type=Path, metavar="DIR", help="the folder it reads its models from")
    server.add_argument("--key-file", type=Path, metavar="FILE", help="holds its management key")
    server.add_argument("--start-triton", default=START_TRITON, metavar="COMMAND", help=f"default: {START_TRITON}")
    table = commands.add_parser("table", help="write the documents")
    table.add_argument("--state", type=Path, default=STATE, metavar="DIR")
    table.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR")
    given = parser.parse_args(arguments)
    os.environ.update({**OFFLINE, **QUIET, "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"})
    asked = {*getattr(given, "types", ()), *getattr(given, "only", ())}
    if unknown := sorted(asked - set(model_types())):
        parser.error(f"transformers knows no type {', '.join(unknown)}")
    return {"shapes": _shapes, "sweep": _sweep, "table": _table}[given.command](given)


def _shapes(given: argparse.Namespace) -> int:
    from converters.coverage.shapes import NotBuilt, build

    types = given.types or model_types()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for model_type in types:
            folder = (given.out or Path(scratch)) / model_type
            try:
                built = build(model_type, folder)
            except NotBuilt as error:
                failed += 1
                print(steady(str(error)), flush=True)
            else:
                if given.types:
                    print(f"{model_type}: {built.class_name}, {built.task}, {built.parameters} weights", flush=True)
            if given.out is None:
                shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(types) - failed} of {len(types)} types built")
    return 1 if failed else 0


def _sweep(given: argparse.Namespace) -> int:
    rows_file = given.state / "rows.jsonl"
    if given.fresh:
        rows_file.unlink(missing_ok=True)
    before = {} if given.only else read_rows(rows_file)
    # Asked to end: children and Triton end too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    types = chosen(given.only or model_types(), before, retry_failed=given.retry == "failed")
    if not types:
        print("nothing to do: every type has a row; --retry failed, --only TYPE or --fresh does some again")
        return 0
    work = given.state.absolute() / "work"
    shutil.rmtree(work, ignore_errors=True)
    settings = Settings(work, rows_file, given.jobs, given.limit, given.memory << 20)
    with _triton(given) as serving:
        attempts.import_heavy()
        try:
            sweep(types, serving, settings, _Progress(len(types)).row)
        except KeyboardInterrupt:
            print("\nstopped; the next run goes on from here", file=sys.stderr)
            return 1
        except ConnectionError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
    shutil.rmtree(work, ignore_errors=True)
    return 0


def _table(given: argparse.Namespace) -> int:
    rows = read_rows(given.state / "rows.jsonl")
    if not rows:
        print(f"{given.state}: expected rows of a sweep, found none: run `python -m converters.coverage sweep`", file=sys.stderr)
        return 1
    print(write_table(rows, model_types(), given.docs))
    return 0


class _Progress:
    """A line a type; on a terminal with a bar that is written over."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._supported, self._began = total, 0, 0, time.monotonic()

    def row(self, row: Row) -> None:
        self._done += 1
        self._supported += row.is_supported
        verdict = row.verdict
        assert verdict is not None  # noqa: S101 - a finished row has an attempt
        if row.is_supported:
            said = f"{verdict.task}, {verdict.route}, {verdict.served:.0e} of {verdict.bound:.0e}"
        else:
            said = f"{verdict.task or '-'}: {verdict.step}: {verdict.message}"
        print(f"\r{' ok ' if row.is_supported else 'FAIL'} {row.model_type}: {said}"[:_SHOWN].ljust(_SHOWN), flush=True)
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        filled = 30 * self._done // self._total
        bar = "#" * filled + "." * (30 - filled)
        line = f"[{bar}] {self._done}/{self._total}, {self._supported} supported, {left / 60:.0f} min left"
        print(line, end="" if sys.stdout.isatty() else "\n", flush=True)


@contextmanager
def _triton(given: argparse.Namespace) -> Iterator[Serving]:
    if given.triton:
        if not given.models or not given.key_file:
            raise SystemExit("--triton: give its --models folder and its --key-file too")
        server = Server(given.triton, given.key_file.read_text(encoding="utf-8").strip())
        yield Serving(server, given.models)
        return
    folder = given.state.absolute() / "triton"
    command = given.start_triton.format(python=sys.executable, folder=folder).split()
    running: list[subprocess.Popen[str]] = []
    models: list[Path] = []

    def start() -> Server:
        for old in running:
            _end(old)
        shutil.rmtree(folder / "models", ignore_errors=True)  # entries that a killed sweep left
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        running.append(process)
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()
        if not line:
            raise ConnectionError(f"{' '.join(command)}: expected a line with url, models and key; it ended")
        told = json.loads(line)
        models[:] = [Path(told["models"])]
        return Server(told["url"], told["key"])

    try:
        server = start()
        yield Serving(server, models[0], start)
    finally:
        for process in running:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
