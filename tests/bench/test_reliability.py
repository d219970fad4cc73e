"""What the page on reliability makes of what the tests left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.reliability import cases, figures, tables

XML = """<testsuites><testsuite>
<testcase classname="tests.half_failures.test_derive_writes" name="test_deriving[anvil-server load-before]" time="1.0"/>
<testcase classname="tests.half_failures.test_derive_writes" name="test_deriving[anvil-server load-after]" time="1.0"/>
<testcase classname="tests.half_failures.test_derive_writes" name="test_a_node_loses[record_metadata-answer]" time="1.0">
<failure/></testcase>
<testcase classname="tests.c2d_adapter.test_engine" name="test_two_workers_share_a_job_and_one_may_be_killed" time="9.5"/>
</testsuite></testsuites>"""


def kill(victim: str, state: str, moment: str | None = None, signal: str = "SIGKILL") -> dict[str, Any]:
    return {"victim": victim, "state": state, "moment": moment or state, "signal": signal}


def test_every_kill_and_every_lost_write_is_counted_and_a_failure_is_told(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(XML)
    job = {"state": "finished", "reason": None, "attempts": 2, "seconds": 20.5}
    jobs = [
        job
        | {"kills": [kill("worker", "running"), kill("chain", "deriving", signal="SIGTERM"), kill("worker", "finished", "over")]}
    ]
    jobs.append(job | {"state": "failed", "reason": "worker_lost", "kills": []})
    record = {"machine": "2 cores", "seed": 7, "seconds": 60, "ends_within_s": 180.0, "calls": 1, "jobs": jobs}
    report = figures(record, cases(tmp_path / "tests.xml"))
    text = tables(report)
    assert "| worker | 1 |  | 1 | 2 |" in text and "| in all | 1 | 1 | 1 | 3 |" in text
    assert "1 of the 3 (the chain, see above) were told to end" in text
    assert "of which 1 finished and 1 failed" in text and "| 1 | 0 | failed: worker_lost | 2 times | 20.5 |" in text
    assert "| deriving, each write as a whole | `server load` | 1 | 1 | 0 |" in text
    assert "| deriving, each transaction, real chain | `record_metadata` | 0 | 0 | 1 |" in text
    assert "| two workers share a job and one may be killed | - | passed | 9.5 |" in text
    assert "**Failed: tests/half_failures/test_derive_writes.py test_a_node_loses[record_metadata-answer]**" in text
