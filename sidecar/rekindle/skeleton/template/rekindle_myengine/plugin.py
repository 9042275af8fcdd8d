"""What the plugin says of itself: both halves use it."""

from __future__ import annotations

from rekindle_plugins.contract import Capability, PluginInfo

INFO = PluginInfo(
    name="myengine",
    version="0.1.0",
    engine="myengine 1",
    capabilities=frozenset({Capability.EAGER_RESTORE, Capability.CACHE_RESET}),
    api_version=(1, 0),
)
