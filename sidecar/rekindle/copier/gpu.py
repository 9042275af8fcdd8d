"""One GPU as a copier uses it: a context, a stream, events, and the import of another process's memory.

Runs in the copier process only, on its main thread. `cuda.bindings.driver` (the driver API, no PyTorch) is imported
here and nowhere else. Every failure is a DeviceError with the driver's own name for it and, where it is known, what to
change.

The copier has the device's primary context in its own process: copies by the copy engines of one context should not
wait for the kernels of another, while a kernel of ours would take its turn with the engine's.
"""

from __future__ import annotations

import ctypes
from typing import Any

from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.sharing import CUDA_IPC, DeviceBuffer

IPC_HINTS = (
    "the two containers must share a PID namespace (shareProcessNamespace: true) and run as the same user; memory made "
    "by cuMemCreate with a POSIX handle type needs neither"
)
_HINTS = {
    "CUDA_ERROR_NO_DEVICE": "the sidecar's container sees no GPU: runtimeClassName nvidia, NVIDIA_VISIBLE_DEVICES",
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU has no room for another process's context: leave it 0.5 GiB more",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the GPU has failed: see the kernel's log for its Xid",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "the GPU is in exclusive mode, or lost: see the kernel's log for its Xid",
}


def load_driver() -> Any:
    """The bindings, with the driver initialised. Raises DeviceError."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceError("attach", "GPU", f"cuda-bindings: {error}", "install rekindle[cuda]") from error
    try:
        (result,) = driver.cuInit(0)
    except Exception as error:  # the bindings find the library at the first call, and have their own errors for it
        hint = "the sidecar's container has no driver library: runtimeClassName nvidia, or the device plugin's mounts"
        raise DeviceError("attach", "GPU", f"libcuda.so.1: {error}", hint) from error
    if result != driver.CUresult.CUDA_SUCCESS:
        raise failure("attach", "GPU", "cuInit", result)
    return driver


def failure(op: str, subject: str, call: str, result: Any, hint: str = "") -> DeviceError:
    name = getattr(result, "name", str(result))
    return DeviceError(op, subject, f"{call} said {name}", hint or _HINTS.get(name, ""), int(result))


class Gpu:
    """The device with a given UUID, its context current on this thread, one stream of ours."""

    def __init__(self, uuid: str) -> None:
        self.driver = load_driver()
        self.subject = f"GPU {uuid}"
        self._device = self._find(uuid)
        self.call("cuDevicePrimaryCtxSetFlags", self._device, self.driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC)
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        self.call("cuCtxSetCurrent", self._context)
        self.stream = self.call("cuStreamCreate", self.driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        max_pitch = self.driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_PITCH
        self.max_pitch = int(self.call("cuDeviceGetAttribute", max_pitch, self._device))

    def call(self, name: str, *args: Any, hint: str = "") -> Any:
        """One driver call. Returns what it gives back: nothing, one value, or a tuple. Raises DeviceError."""
        result, *values = getattr(self.driver, name)(*args)
        if result != self.driver.CUresult.CUDA_SUCCESS:
            raise failure("use", self.subject, name, result, hint)
        return values[0] if len(values) == 1 else tuple(values) or None

    def _find(self, uuid: str) -> Any:
        seen = []
        for ordinal in range(self.call("cuDeviceGetCount")):
            device = self.call("cuDeviceGet", ordinal)
            seen.append(bytes(self.call("cuDeviceGetUuid", device).bytes).hex())
            if seen[-1] == uuid:
                return device
        problem = f"it is not among the GPUs that the sidecar sees ({', '.join(seen) or 'none'})"
        hint = "give both containers the same GPU: one resource claim for both, or NVIDIA_VISIBLE_DEVICES=all"
        raise DeviceError("attach", self.subject, problem, hint)

    def new_event(self) -> Any:
        """An event that a thread waits for asleep, not spinning."""
        flags = self.driver.CUevent_flags
        return self.call("cuEventCreate", flags.CU_EVENT_DISABLE_TIMING | flags.CU_EVENT_BLOCKING_SYNC)

    def pin(self, address: int, size: int) -> None:
        """Page-locks memory of ours, so that the copy engines reach it at full speed."""
        hint = "it could not be page-locked: raise the container's memory limit and its memlock limit"
        self.call("cuMemHostRegister", address, size, self.driver.CU_MEMHOSTREGISTER_PORTABLE, hint=hint)

    # -- another process's memory ------------------------------------------------------------------------------

    def import_buffer(self, kind: str, buffer: DeviceBuffer, fds: list[int], opened: dict[str, int]) -> int:
        """The device address of a buffer's first byte. `opened` has the IPC handles opened so far, and their address.

        Buffers may share an allocation, and a handle is opened once.
        """
        if kind == CUDA_IPC:
            if buffer.handle not in opened:
                opened[buffer.handle] = self._open_ipc(bytes.fromhex(buffer.handle))
            return opened[buffer.handle] + buffer.offset
        return self._map_pieces(buffer.pieces, fds) + buffer.offset

    def _open_ipc(self, handle: bytes) -> int:
        ipc_handle = self.driver.CUipcMemHandle()
        ctypes.memmove(int(ipc_handle.getPtr()), handle, len(handle))  # its field is gone from newer bindings
        lazy = self.driver.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
        return int(self.call("cuIpcOpenMemHandle", ipc_handle, lazy, hint=IPC_HINTS))

    def _map_pieces(self, pieces: tuple[int, ...], fds: list[int]) -> int:
        """Maps allocations that came as descriptors one behind the other. The descriptors stay the caller's."""
        driver, total = self.driver, sum(pieces)
        start = at = int(self.call("cuMemAddressReserve", total, 0, 0, 0))
        handle_type = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        for size, fd in zip(pieces, fds, strict=True):
            handle = self.call("cuMemImportFromShareableHandle", fd, handle_type)
            self.call("cuMemMap", at, size, 0, handle, 0)
            self.call("cuMemRelease", handle)  # the mapping keeps the memory
            at += size
        access = driver.CUmemAccessDesc()
        access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = int(self._device)
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        self.call("cuMemSetAccess", start, total, [access], 1)
        return start
