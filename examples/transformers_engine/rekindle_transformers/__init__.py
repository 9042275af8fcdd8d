"""Rekindle for the continuous batching of Hugging Face transformers: `protect(manager)`, before `manager.start()`.

A third party's plugin: a distribution of its own, found by its entry point. It uses `rekindle_plugins`, no more.
"""

from rekindle_transformers.protection import Protection, protect

__all__ = ["Protection", "protect"]
