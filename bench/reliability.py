"""What was killed and what was lost, how often, and what came of it: `docs/reliability.md`.

    python -m bench.reliability            runs the tests that kill and lose (half an hour on two cores), then makes the tables
    python -m bench.reliability --table    makes the tables of what the last run left in .posthuman/reliability

In: the random kills' record, the tests' report. Out: tables between the page's marks, and `docs/benchmarks/reliability.json`. This
module must never state a figure that no test left.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.report import REPOSITORY, write_report

PAGE = REPOSITORY / "docs" / "reliability.md"
LEFT = REPOSITORY / ".posthuman" / "reliability"
KILLS, TESTS = LEFT / "kills.json", LEFT / "tests.xml"
RUN = (
    "tests/stories/test_random_kills.py",
    "tests/half_failures/test_derive_writes.py",
    "tests/half_failures/test_derive_kills.py",
    "tests/half_failures/test_derive_forgotten_blocks.py",
    "tests/half_failures/test_job_orders.py",
    "tests/half_failures/test_dataset_orders.py",
    "tests/c2d_adapter/test_worker.py",
    "tests/c2d_adapter/test_worker_faults.py",
    "tests/c2d_adapter/test_storage.py",
    "tests/c2d_adapter/test_engine.py",
)
MOMENTS = ("ordering", "queued", "provisioning", "running", "storing", "deriving", "finished", "failed")
_DIED = re.compile(r"kill|death|forgot")
_WHEN = {
    "before": "failed", "request": "failed", "it failed": "failed",
    "after": "done", "answer": "done", "it failed after it was done": "done",
}  # fmt: skip
"""The last part of a test's parameters -> whether the write was not done, or done and its answer lost."""


@dataclass(frozen=True)
class Case:
    """One run of one test. parameters: as the test's name has them. outcome: passed, failed, skipped."""

    file: str
    test: str
    parameters: str
    outcome: str
    seconds: float

    @property
    def sentence(self) -> str:
        return self.test.removeprefix("test_").replace("_", " ")


def cases(report: Path) -> list[Case]:
    """What pytest's JUnit report says. Raises FileNotFoundError."""
    found = []
    for one in ElementTree.parse(report).iter("testcase"):  # noqa: S314  our own file
        test, _, parameters = one.attrib["name"].partition("[")
        bad = {child.tag for child in one}
        outcome = "failed" if bad & {"failure", "error"} else "skipped" if "skipped" in bad else "passed"
        file = one.attrib["classname"].replace(".", "/") + ".py"
        found.append(Case(file, test, parameters.rstrip("]"), outcome, float(one.attrib["time"])))
    return found


def figures(record: Mapping[str, Any], ran: Sequence[Case]) -> dict[str, Any]:
    """Everything that the page says. record: what the random kills left."""
    kills = [kill for job in record["jobs"] for kill in job["kills"]]
    return {
        "when": record.get("when", ""),
        "machine": record["machine"],
        "load": record.get("load"),
        "note": record.get("note", ""),
        "seed": record["seed"],
        "seconds": record["seconds"],
        "ends_within_s": record["ends_within_s"],
        "calls": record["calls"],
        "kills": {victim: dict(Counter(kill["state"] for kill in of)) for victim, of in _grouped(kills).items()},
        "ended_otherwise": sum(kill["signal"] != "SIGKILL" for kill in kills),
        "jobs": [_without_kills(job) for job in record["jobs"]],
        "writes": {place: {write: dict(when) for write, when in of.items()} for place, of in _writes(ran).items()},
        "deaths": [vars(case) for case in ran if _DIED.search(case.test) and "random_kills" not in case.file],
        "failed": [f"{case.file} {case.test}[{case.parameters}]" for case in ran if case.outcome == "failed"],
    }  # fmt: skip


def _without_kills(job: Mapping[str, Any]) -> dict[str, Any]:
    return {**job, "kills": len(job["kills"])}


def _grouped(kills: Sequence[Mapping[str, Any]]) -> Mapping[str, list[Mapping[str, Any]]]:
    found = defaultdict(list)
    for kill in kills:
        found[kill["victim"]].append(kill)
    return dict(sorted(found.items(), key=lambda each: (-len(each[1]), each[0])))


def _writes(ran: Sequence[Case]) -> dict[str, dict[str, Counter[str]]]:
    """By place and write: how often it was lost in each way and healed, and how often it was not."""
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for case in ran:
        write, _, when = case.parameters.rpartition("-")
        if when in _WHEN and case.outcome != "skipped":
            place, write = _place(case, write or case.sentence)
            found[place][write][_WHEN[when] if case.outcome == "passed" else "broken"] += 1
    return found


def _place(case: Case, write: str) -> tuple[str, str]:
    """Where a write was lost, and which."""
    name = Path(case.file).stem
    if name == "test_derive_writes":
        chain, _, rest = write.partition("-") if write.startswith(("anvil-", "simulated-")) else ("", "", write)
        if chain:
            return "deriving, each write as a whole", rest.replace("__call__", "").strip()
        return f"deriving, each transaction, {'real' if 'a_node' in case.test else 'simulated'} chain", write
    if name == "test_storage":
        return "object storage, each request", " ".join(write.split("-")[:2])
    if name in ("test_worker", "test_worker_faults"):
        return "a job's steps and rows", write
    return {"test_job_orders": "ordering a job", "test_dataset_orders": "ordering a dataset for it"}.get(name, name), write


def tables(report: Mapping[str, Any]) -> str:
    """The page's part that is made of figures."""
    return "\n".join([*_kills(report), *_jobs(report), *_half_failures(report), *_deaths(report)])


def _kills(report: Mapping[str, Any]) -> Iterator[str]:
    kills = report["kills"]
    total = sum(sum(of.values()) for of in kills.values())
    states = [state for state in MOMENTS if any(state in of for of in kills.values())]
    load = "" if report["load"] is None else f", {report['load']} processes at work or waiting on average"
    yield f"{report['when']}, {report['machine']}{load}; seed {report['seed']}; {report['seconds']} s in all. {report['note']}\n"
    yield f"## {total} random kills\n"
    yield f"| killed | {' | '.join(states)} | in all |"
    yield f"|---|{'---|' * (len(states) + 1)}"
    for victim, of in kills.items():
        yield f"| {victim} | {' | '.join(str(of.get(state, '')) for state in states)} | {sum(of.values())} |"
    yield f"| in all | {' | '.join(str(sum(of.get(state, 0) for of in kills.values())) for state in states)} | {total} |"
    yield f"\n{report['ended_otherwise']} of the {total} (the chain, see above) were told to end; all others were killed with -9.\n"


def _jobs(report: Mapping[str, Any]) -> Iterator[str]:
    jobs = report["jobs"]
    yield "| job | kills in its life | it ended | claimed | seconds |"
    yield "|---|---|---|---|---|"
    for number, job in enumerate(jobs):
        ended = job["state"] if job["reason"] is None else f"{job['state']}: {job['reason']}"
        yield f"| {number} | {job['kills']} | {ended} | {job['attempts']} times | {job['seconds']} |"
    finished = sum(job["state"] == "finished" for job in jobs)
    yield (
        f"\n{len(jobs)} jobs, of which {finished} finished and {len(jobs) - finished} failed with a reason and gave their "
        f"payment back; none took longer than {report['ends_within_s']:g} s after its last kill. {finished} assets on chain, "
        f"200 datatokens each, and no right of the market's over any; {report['calls']} paid calls answered, and each check from "
        "outside passed.\n"
    )


def _half_failures(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Half failures\n"
    yield "| where | write | failed, then healed | done but said to have failed, then healed | not healed |"
    yield "|---|---|---|---|---|"
    for place, of in report["writes"].items():
        for write, when in of.items():
            yield f"| {place} | `{write}` | {when.get('failed', 0)} | {when.get('done', 0)} | {when.get('broken', 0)} |"
    yield ""


def _deaths(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Deaths one at a time\n"
    yield "| what | with | outcome | seconds |"
    yield "|---|---|---|---|"
    for case in report["deaths"]:
        case = Case(**case)
        yield f"| {case.sentence} | {case.parameters or '-'} | {case.outcome} | {case.seconds:.1f} |"
    if report["failed"]:
        yield f"\n**Failed: {'; '.join(report['failed'])}**"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reliability", description="Make docs/reliability.md's tables.")
    parser.add_argument("--table", action="store_true", help="run nothing: of what the last run left")
    given = parser.parse_args()
    code = 0
    if not given.table:
        LEFT.mkdir(parents=True, exist_ok=True)
        for old in (KILLS, TESTS):
            old.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "long or not long", f"--junitxml={TESTS}", *RUN]
        code = subprocess.run(command, cwd=REPOSITORY).returncode
    record = json.loads(KILLS.read_text(encoding="utf-8"))
    record["when"] = time.strftime("%Y-%m-%d", time.gmtime(KILLS.stat().st_mtime))
    report = figures(record, cases(TESTS))
    write_report("reliability", report, tables(report), PAGE)
    return code


if __name__ == "__main__":
    sys.exit(main())
