"""The worker half of the vLLM shim: hands one rank's KV-cache memory over, and echoes what the scheduler half says.

Runs in the worker process, on its main thread; nothing here happens inside a forward pass. On the CPU the KV cache is
moved into shared memory in place (torch's `UntypedStorage._share_fd_cpu_`), before the engine warms up. On a GPU it
stays where it is, and the driver exports it (`client.cuda`).
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from typing import Any, ClassVar

from rekindle_plugins.client.cuda import export_buffers
from rekindle_plugins.client.guard import Guard
from rekindle_plugins.client.rank import Rank, RankConfig
from rekindle_plugins.client.shim import Shim
from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.geometry import Region
from rekindle_plugins.contract.plugin import PluginInfo, Stage
from rekindle_plugins.contract.sharing import SHM, DeviceBuffer
from rekindle_plugins.vllm.geometry import View, describe, group_geometry, view_of
from rekindle_plugins.vllm.plugin import INFO
from rekindle_plugins.vllm.settings import Settings
from rekindle_plugins.vllm.support import UnsupportedError, check_parallel, groups_of

SHM_MARGIN_BYTES = 192 << 20
"""Left free: vLLM's own message queues live in /dev/shm too (160 MiB were seen to be wanted)."""


@dataclass(frozen=True)
class Shared:
    """The KV cache's storages as buffers of a region: which is which, by address, and how each is shared."""

    indices: dict[int, int]
    kind: str
    sizes: tuple[int, ...]
    devices: tuple[DeviceBuffer, ...]
    fds: tuple[int, ...]


class WorkerShim(Shim):
    """One rank's memory."""

    info: ClassVar[PluginInfo] = INFO

    def __init__(self, guard: Guard, log: logging.Logger) -> None:
        super().__init__()
        self.guard = guard
        self._log = log
        self._rank: Rank | None = None
        self._shared: Shared | None = None

    def initialize(self, vllm_config: Any, kv_cache_config: Any) -> None:
        """Raises UnsupportedError when this configuration cannot be protected."""
        self.stages.enter(Stage.INITIALIZED)
        self._settings = Settings.of(vllm_config)
        self._config = kv_cache_config
        self._world_size = check_parallel(vllm_config)
        self._groups = groups_of(kv_cache_config)

    def share(self, kv_caches: dict[str, Any]) -> None:
        """Makes the memory reachable for the sidecar; on a CPU, tensors have other addresses after it. To be called
        before anybody notes them. Raises UnsupportedError when the memory cannot be protected."""
        self._shared = _share(kv_caches)

    def attach(self, kv_caches: dict[str, Any]) -> None:
        """Shares the memory where `share` was not called, and begins to attach.

        Raises UnsupportedError when the memory cannot be protected.
        """
        self.stages.enter(Stage.ATTACHED)
        import vllm
        from vllm.distributed import get_tensor_model_parallel_rank

        shared = self._shared if self._shared is not None else _share(kv_caches)
        views = {name: view_of(tensor, shared.indices[_storage_key(tensor)]) for name, tensor in kv_caches.items()}
        blocks = int(self._config.num_blocks)
        geometries = tuple(
            group_geometry(group, [views[name] for name in group.layer_names], self._page_bytes(group.index), blocks)
            for group in self._groups
        )
        rank = int(get_tensor_model_parallel_rank())
        region = Region(
            rank, shared.kind, blocks, shared.sizes, geometries, self._layout(views, blocks), shared.devices
        )
        settings = self._settings
        self._rank = Rank(
            RankConfig(settings.attach_path, settings.instance, INFO, vllm.__version__, self._world_size),
            region,
            shared.fds,
            self._log,
        )
        for fd in shared.fds:
            os.close(fd)  # the rank has its own
        self._rank.start()

    def finalize(self) -> None:
        self.stages.enter(Stage.FINALIZED)
        if self._rank is not None:
            self._rank.close()

    def _page_bytes(self, index: int) -> list[int]:
        spec = self._config.kv_cache_groups[index].kv_cache_spec
        by_layer = getattr(spec, "kv_cache_specs", {})
        return [by_layer.get(name, spec).page_size_bytes for name in self._groups[index].layer_names]

    def _layout(self, views: dict[str, View], blocks: int) -> str:
        """A digest of what the bytes of a page mean. Part of the identity: another layout is another page."""
        text = ";".join(
            f"{group.index}:{name}:{describe(views[name], blocks)}"
            for group in self._groups
            for name in group.layer_names
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _storage_key(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _share(kv_caches: dict[str, Any]) -> Shared:
    """Makes every storage reachable for the sidecar. Raises UnsupportedError when that cannot be."""
    kinds = sorted({tensor.device.type for tensor in kv_caches.values()})
    if kinds == ["cuda"]:
        return _share_cuda(kv_caches)
    if kinds != ["cpu"]:
        raise UnsupportedError(f"KV-cache memory on {' and '.join(kinds)} is not supported")
    return _share_cpu(kv_caches)


def _share_cuda(kv_caches: dict[str, Any]) -> Shared:
    """Exports every storage where it lies. Nothing is moved, and torch's own sharing is not touched."""
    storages = {_storage_key(tensor): int(tensor.untyped_storage().nbytes()) for tensor in kv_caches.values()}
    try:
        exported = export_buffers(list(storages.items()))
    except DeviceError as error:
        raise UnsupportedError(str(error)) from error
    indices = {address: index for index, address in enumerate(storages)}
    return Shared(indices, exported.kind, tuple(storages.values()), exported.devices, exported.fds)


def _share_cpu(kv_caches: dict[str, Any]) -> Shared:
    """Moves every storage into shared memory. Addresses are the new ones."""
    storages: dict[int, Any] = {}
    for tensor in kv_caches.values():
        storages.setdefault(_storage_key(tensor), tensor.untyped_storage())
    needed = sum(storage.nbytes() for storage in storages.values())
    room = os.statvfs("/dev/shm")
    if room.f_bavail * room.f_frsize < needed + SHM_MARGIN_BYTES:
        raise UnsupportedError(
            f"/dev/shm has {room.f_bavail * room.f_frsize >> 20} MiB free, the KV cache needs {needed >> 20} MiB: "
            "give the container a larger one (--shm-size, or an emptyDir with medium Memory)"
        )
    indices: dict[int, int] = {}
    fds: list[int] = []
    for storage in storages.values():
        fd, _ = storage._share_fd_cpu_()
        indices[int(storage.data_ptr())] = len(fds)
        fds.append(os.dup(fd))
    return Shared(indices, SHM, tuple(os.fstat(fd).st_size for fd in fds), (), tuple(fds))
