"""The vLLM plugin: `--kv-transfer-config '{"kv_connector":"RekindleConnector",
"kv_connector_module_path":"rekindle_plugins.vllm","kv_role":"kv_both","kv_load_failure_policy":"recompute"}'`.

Supports 0.28 to 0.32; the places that lean on vLLM's insides name the symbol they lean on. The connector is imported
when vLLM asks for it: the modules that need no vLLM (geometry, keys, tables) can be imported and tested without.
"""

from typing import Any

__all__ = ["RekindleConnector"]


def __getattr__(name: str) -> Any:
    if name != "RekindleConnector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rekindle_plugins.vllm.connector import RekindleConnector

    return RekindleConnector
