"""The TensorRT-LLM plugin: a KV-cache connector, loaded by `trtllm-serve --config engine.yaml` (beside this file).

It has never run on TensorRT-LLM itself: the tests drive it through a stand-in that mirrors the engine's call order.

The two classes are imported when the engine asks for them: the modules that need no TensorRT-LLM can be imported and
tested without. `connector` says what is called when, `loads` why nothing is claimed before it has arrived.
"""

from typing import Any

__all__ = ["RekindleScheduler", "RekindleWorker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rekindle_plugins.tensorrt_llm import connector

    return getattr(connector, name)
