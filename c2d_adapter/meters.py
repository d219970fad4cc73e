"""What a worker counts of jobs, for the web's `/metrics`: how long each step took, and how it ended.

In: a job's kind, its state, seconds. Out: numbers in the folder where the web's workers count too. This module must never take a
label from outside.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Summary

from control_plane.jobs.states import Kind, State


class JobMeters:
    """Make it after `shared_metrics.share`, which decides where numbers live."""

    def __init__(self) -> None:
        self._seconds = Summary(
            "posthuman_job_step_seconds",
            "One try of a job's step: provisioning, running, storing, deriving; done, failed, again (tried once more), left",
            ["kind", "step", "outcome"],
            registry=CollectorRegistry(),
        )

    def observe(self, kind: Kind, state: State, seconds: float, outcome: str) -> None:
        self._seconds.labels(kind.value, state.value, outcome).observe(seconds)
