"""What vLLM's API server sets for requests that are silent about it, told by the scheduler's process.

Both are made of the same configuration: `ModelConfig.get_diff_sampling_param`, and the cap as the serving classes of
`vllm.entrypoints.openai` read it (`override_max_tokens`), 0.28 to 0.32. See `openai.server_settings` for the form.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

PROCESSORS_GROUP = "vllm.logits_processors"
"""Entry points that every engine process loads (`vllm.v1.sample.logits_processor.LOGITSPROCS_GROUP`)."""


def serving_of(vllm_config: Any) -> dict[str, Any] | None:
    """None where this vLLM does not say it: then no answer is continued."""
    model = vllm_config.model_config
    try:
        defaults = dict(model.get_diff_sampling_param())
        overrides = getattr(model, "override_generation_config", None) or {}
        is_from_folder = model.generation_config not in ("auto", "vllm")
        cap = defaults.get("max_tokens") if is_from_folder else overrides.get("max_new_tokens")
        has_processors = bool(model.logits_processors) or bool(entry_points(group=PROCESSORS_GROUP))
        return {
            "defaults": defaults,
            "max_tokens_cap": cap,
            "context_tokens": int(model.max_model_len),
            "logits_processors": has_processors,
        }
    except (AttributeError, TypeError, ValueError):
        return None
