"""The keeper: the sidecar's main process. It attaches engines, keeps the catalog, and supervises copiers."""

from rekindle.keeper.keeper import Keeper

__all__ = ["Keeper"]
