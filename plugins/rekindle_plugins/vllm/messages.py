"""What the two halves of the shim tell each other through vLLM's own channels, once per step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata


@dataclass
class StepPlan(KVConnectorMetadata):  # type: ignore[misc]
    """Scheduler half → worker half. The worker only repeats it at the place where vLLM listens."""

    step: int = 0
    loaded: frozenset[str] = field(default_factory=frozenset)
    """Requests whose pages have all arrived or certainly will not."""
    bad_blocks: frozenset[int] = field(default_factory=frozenset)
    """Blocks of these requests that did not arrive: vLLM computes them."""


@dataclass
class StepDone(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """Worker half → scheduler half: this step has run on this worker; aggregated, on all of them."""

    step: int

    def aggregate(self, other: Any) -> StepDone:
        return StepDone(min(self.step, other.step))
