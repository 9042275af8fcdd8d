"""From a `ContinuousBatchingManager` to shims: one for each processor (and so each cache) that the manager makes.

The only part that the program calls. Whatever fails here is logged, and the manager is as it was.
"""

from __future__ import annotations

import logging
from typing import Any

from rekindle_plugins.contract.errors import RekindleError

from rekindle_transformers import hooks
from rekindle_transformers.engine_parts import UnsupportedError
from rekindle_transformers.shim import TransformersShim

log = logging.getLogger("rekindle.transformers")


class Protection:
    """A manager's. `close` is for programs that run the generation loop themselves; `manager.stop` does it as well."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._processor: Any = None
        self._shim: TransformersShim | None = None

    def watch(self) -> None:
        """Has the manager tell of every processor it makes, and of its end."""
        manager = self._manager
        create, stop = manager._create_batch_processor, manager.stop

        def create_and_protect() -> Any:
            processor = create()
            self._take(processor)
            return processor

        def stop_and_close(*args: Any, **kwargs: Any) -> None:
            stop(*args, **kwargs)
            if manager.batch_processor is None and not manager.is_running():
                self.close()

        manager._create_batch_processor, manager.stop = create_and_protect, stop_and_close
        if manager.batch_processor is not None:
            self._take(manager.batch_processor)

    def _take(self, processor: Any) -> None:
        """The manager hands the same processor out again when it starts anew: that one has its shim."""
        if processor is self._processor:
            return
        self.close()
        self._processor = processor
        try:
            shim = TransformersShim()
            shim.initialize(self._manager.model, processor)
            hooks.install(shim)
            self._shim = shim
        except (UnsupportedError, RekindleError) as error:
            log.warning("rekindle is off for this engine start: this engine is not protected: %s", error)
        except Exception:
            log.exception("rekindle is off for this engine start (the engine is not affected)")

    def close(self) -> None:
        shim, self._shim, self._processor = self._shim, None, None
        if shim is not None:
            shim.guard.call(None, shim.finalize)


def protect(manager: Any) -> Protection:
    """Protects a manager that has not been started yet. Never raises."""
    protection = Protection(manager)
    try:
        protection.watch()
    except Exception:
        log.exception("rekindle is off for this engine (the engine is not affected)")
    return protection
