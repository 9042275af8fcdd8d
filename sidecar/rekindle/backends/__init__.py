"""The backends that this sidecar knows: adapters by name, found by entry point or in plugin folders."""

from rekindle.backends.registry import Backends, Found, discover

__all__ = ["Backends", "Found", "discover"]
