"""An arena of another size with an arena's pages: made beside it, to be renamed over it.

Runs in the keeper, on a worker's thread, while nobody uses the old arena. The new file is complete when this returns: a
kill before the rename leaves the old arena as it was, and a leftover that `arena_file.discard_unfinished` removes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rekindle_plugins.contract.errors import StoreError

from rekindle.store.arena import Arena
from rekindle.store.arena_file import RESIZING_SUFFIX
from rekindle.store.layout import ArenaGeometry
from rekindle.store.page import Slot
from rekindle.store.report import OpenLog

_CHUNK_BYTES = 8 << 20


def rebuild(old: Arena, identity_json: str, geometry: ArenaGeometry, order: Sequence[Slot]) -> Path:
    """Copies the pages of `order` (parents first) into a fresh arena of `geometry`; returns its path.

    Raises:
        StoreFullError: the file system has no room for both; nothing is left behind.
        StoreError: the file system refused; nothing is left behind.
    """
    path = old.path.with_name(old.path.name + RESIZING_SUFFIX)
    path.unlink(missing_ok=True)
    fresh = Arena.open(path, old.identity_digest, identity_json, geometry, OpenLog())
    try:
        for number, slot in enumerate(order):
            target = Slot(number)
            _copy(old, fresh, slot, target)
            fresh.write_record(replace(old.read_record(slot), slot=target))
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError("resize", f"arena {old.path}", str(error)) from error
        raise
    finally:
        fresh.close()
    return path


def _copy(old: Arena, fresh: Arena, slot: Slot, target: Slot) -> None:
    begin, target_begin = old.slot_offset(slot, 0), fresh.slot_offset(target, 0)
    for done in range(0, old.geometry.page.slot_bytes, _CHUNK_BYTES):
        size = min(_CHUNK_BYTES, old.geometry.page.slot_bytes - done)
        data = os.pread(old.fd, size, begin + done)
        if len(data) < size or os.pwrite(fresh.fd, data, target_begin + done) < size:
            raise StoreError("resize", f"arena {old.path}", f"slot {slot} could not be copied whole")
