"""What the engine tells Prometheus: who waits, who runs, how many tokens.

In: nothing. Out: the metrics of `engine.Counts`, by its fields. This module must never count.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from opening.meters import Meter

GAUGES: Mapping[str, Meter] = MappingProxyType(
    {
        "waiting": Meter("posthuman_engine_calls_waiting", "Calls that wait for a place in this model"),
        "running": Meter("posthuman_engine_calls_running", "Calls that share the steps of this model"),
    }
)
COUNTERS: Mapping[str, Meter] = MappingProxyType(
    {
        "prompt_tokens": Meter("posthuman_engine_prompt_tokens_total", "Tokens of prompts that were read"),
        "tokens": Meter("posthuman_engine_tokens_total", "Tokens that were chosen"),
        "refused": Meter(
            "posthuman_engine_calls_refused_total",
            "Calls that were not let in: the queue was full, or they had waited as long as they might",
        ),
        "cancelled": Meter("posthuman_engine_calls_cancelled_total", "Calls whose caller went away"),
        "failed": Meter("posthuman_engine_calls_failed_total", "Calls that ended in an error"),
    }
)
