"""Device memory as an engine would make it, by ctypes on libcuda.so.1: the real driver's or the stand-in's.

Used on the thread that made the `Device`; a device address is a plain integer.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p
from typing import Any

from rekindle_plugins.client.cuda_driver import LIBRARY, MemAllocationProp, MemLocation

PINNED_TYPE, DEVICE_LOCATION, READ_WRITE, POSIX_FD = 1, 1, 3, 1


class AccessDesc(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = [("location", MemLocation), ("flags", c_int)]


class Device:
    """Device 0 with its primary context current on this thread."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        context = c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", byref(context), 0)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *args: Any) -> None:
        result = getattr(self._library, name)(*args)
        if result:
            raise OSError(f"{name}: CUDA error {result}")

    def write(self, address: int, data: bytes) -> None:
        self.call("cuMemcpyHtoD_v2", c_uint64(address), data, c_size_t(len(data)))

    def read(self, address: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(size)
        self.call("cuMemcpyDtoH_v2", data, c_uint64(address), c_size_t(size))
        return data.raw

    def fill(self, address: int, byte: int, size: int) -> None:
        self.call("cuMemsetD8_v2", c_uint64(address), ctypes.c_ubyte(byte), c_size_t(size))

    def free_bytes(self) -> int:
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def alloc(self, size: int) -> int:
        """cudaMalloc's kind of memory."""
        address = c_uint64()
        self.call("cuMemAlloc_v2", byref(address), c_size_t(size))
        return address.value

    def synchronize(self) -> None:
        """Everything that was asked of the GPU in this process is done."""
        self.call("cuCtxSynchronize")

    def granule(self) -> int:
        """The size of which VMM allocations are multiples."""
        properties = MemAllocationProp(PINNED_TYPE, POSIX_FD, MemLocation(DEVICE_LOCATION, 0))
        granule = c_size_t()
        self.call("cuMemGetAllocationGranularity", byref(granule), byref(properties), 0)
        return granule.value

    def alloc_vmm(self, *sizes: int, handle_types: int = POSIX_FD) -> int:
        """VMM memory: allocations of these sizes (made whole granules), one behind the other."""
        properties = MemAllocationProp(PINNED_TYPE, handle_types, MemLocation(DEVICE_LOCATION, 0))
        granule = self.granule()
        whole = [-(-size // granule) * granule for size in sizes]
        start = c_uint64()
        self.call("cuMemAddressReserve", byref(start), c_size_t(sum(whole)), c_size_t(0), c_uint64(0), c_uint64(0))
        at = start.value
        for size in whole:
            handle = c_uint64()
            self.call("cuMemCreate", byref(handle), c_size_t(size), byref(properties), c_uint64(0))
            self.call("cuMemMap", c_uint64(at), c_size_t(size), c_size_t(0), handle, c_uint64(0))
            self.call("cuMemRelease", handle)
            at += size
        access = AccessDesc(MemLocation(DEVICE_LOCATION, 0), READ_WRITE)
        self.call("cuMemSetAccess", start, c_size_t(sum(whole)), byref(access), c_size_t(1))
        return start.value
