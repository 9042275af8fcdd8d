"""The nano engine's plugin: `python -m nano_engine --plugin rekindle_plugins.nano:connect`."""

from rekindle_plugins.nano.shim import connect

__all__ = ["connect"]
