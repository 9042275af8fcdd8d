"""The few functions of the CUDA driver library that an engine's shim needs, through ctypes. Stdlib only.

The engine has the library loaded already (by its soname, `libcuda.so.1`), so nothing new comes into its process. No
context is made, and what is current on a thread is put back: every call is a question about memory that the engine has,
but for the copies of a shim that has to put pages into it itself, on the engine's thread and stream.
Signatures are those of cuda.h of CUDA 12.0 to 13.0; the suffix of a symbol is the version of its signature.

    cuPointerGetAttribute(void *data, CUpointer_attribute, CUdeviceptr)
    cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr)
    cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *, void *address)
    cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *, CUmemGenericAllocationHandle)
    cuMemExportToShareableHandle(void *handle, CUmemGenericAllocationHandle, CUmemAllocationHandleType, flags u64)
    cuMemRelease(CUmemGenericAllocationHandle)
    cuIpcGetMemHandle(CUipcMemHandle *, CUdeviceptr)
    cuCtxPushCurrent_v2(CUcontext)
    cuCtxPopCurrent_v2(CUcontext *)
    cuMemHostRegister_v2(void *, size_t, unsigned flags)
    cuMemcpyHtoDAsync_v2(CUdeviceptr, const void *, size_t, CUstream)
    cuStreamSynchronize(CUstream)
    cuDeviceGet(CUdevice *, int ordinal)
    cuDeviceGetUuid_v2(CUuuid *, CUdevice)
    cuGetErrorName(CUresult, const char **)
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p
from typing import Any

from rekindle_plugins.contract.errors import DeviceError

LIBRARY = "libcuda.so.1"

POINTER_ATTRIBUTE_CONTEXT = 1
POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9
POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE = 10
POINTER_ATTRIBUTE_MAPPING_SIZE = 18
POINTER_ATTRIBUTE_MAPPING_BASE_ADDR = 19
MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1


class IpcMemHandle(ctypes.Structure):
    """CUipcMemHandle: 64 opaque bytes."""

    _fields_ = [("reserved", c_ubyte * 64)]


class Uuid(ctypes.Structure):
    """CUuuid."""

    _fields_ = [("bytes", c_char * 16)]


class MemLocation(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = [("type", c_int), ("id", c_int)]


class AllocFlags(ctypes.Structure):
    """CUmemAllocationProp.allocFlags."""

    _fields_ = [
        ("compression_type", c_ubyte),
        ("gpu_direct_rdma_capable", c_ubyte),
        ("usage", c_ushort),
        ("reserved", c_ubyte * 4),
    ]


class MemAllocationProp(ctypes.Structure):
    """CUmemAllocationProp, 32 bytes."""

    _fields_ = [
        ("type", c_int),
        ("requested_handle_types", c_int),
        ("location", MemLocation),
        ("win32_handle_meta_data", c_void_p),
        ("alloc_flags", AllocFlags),
    ]


SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuPointerGetAttribute": (c_void_p, c_int, c_uint64),
    "cuMemGetAddressRange_v2": (POINTER(c_uint64), POINTER(c_size_t), c_uint64),
    "cuMemRetainAllocationHandle": (POINTER(c_uint64), c_void_p),
    "cuMemGetAllocationPropertiesFromHandle": (POINTER(MemAllocationProp), c_uint64),
    "cuMemExportToShareableHandle": (c_void_p, c_uint64, c_int, c_uint64),
    "cuMemRelease": (c_uint64,),
    "cuIpcGetMemHandle": (POINTER(IpcMemHandle), c_uint64),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuStreamSynchronize": (c_void_p,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetUuid_v2": (POINTER(Uuid), c_int),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}


class Driver:
    """The loaded library. Every method raises DeviceError with the driver's own name for what went wrong."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(LIBRARY)
            self._functions = {name: getattr(library, name) for name in SIGNATURES}
        except (OSError, AttributeError) as error:
            hint = "the engine's process has no CUDA driver, or one older than CUDA 12"
            raise DeviceError("load", LIBRARY, str(error), hint) from error
        for name, types in SIGNATURES.items():
            self._functions[name].argtypes = types
            self._functions[name].restype = c_int

    def _call(self, name: str, *args: Any) -> None:
        result = self._functions[name](*args)
        if result:
            raise DeviceError("call", name, self._name_of(result), result=result)

    def _name_of(self, result: int) -> str:
        text = c_char_p()
        if self._functions["cuGetErrorName"](result, byref(text)) or not text.value:
            return f"CUDA error {result}"
        return f"{text.value.decode(errors='replace')} ({result})"

    def attribute(self, attribute: int, address: int) -> int:
        """An integer attribute of a device address; narrower ones are widened."""
        value = c_uint64(0)
        self._call("cuPointerGetAttribute", byref(value), attribute, address)
        return value.value

    @contextlib.contextmanager
    def context_of(self, address: int) -> Iterator[None]:
        """With the context current in which an address was allocated: another thread's, it may be."""
        popped = c_void_p()
        self._call("cuCtxPushCurrent_v2", self.attribute(POINTER_ATTRIBUTE_CONTEXT, address))
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", byref(popped))

    def address_range(self, address: int) -> tuple[int, int]:
        """(base, size in bytes) of the allocation that an address lies in. Needs a current context."""
        base, size = c_uint64(), c_size_t()
        self._call("cuMemGetAddressRange_v2", byref(base), byref(size), address)
        return base.value, size.value

    def retain(self, address: int) -> int:
        """The VMM allocation mapped at an address. To be given to `release`."""
        handle = c_uint64()
        self._call("cuMemRetainAllocationHandle", byref(handle), address)
        return handle.value

    def handle_types(self, handle: int) -> int:
        """CUmemAllocationHandleType bits that the allocation was made with."""
        properties = MemAllocationProp()
        self._call("cuMemGetAllocationPropertiesFromHandle", byref(properties), handle)
        return int(properties.requested_handle_types)

    def export_fd(self, handle: int) -> int:
        """A new file descriptor that stands for the allocation. The caller closes it."""
        fd = c_int(-1)
        self._call("cuMemExportToShareableHandle", byref(fd), handle, MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0)
        return fd.value

    def release(self, handle: int) -> None:
        self._call("cuMemRelease", handle)

    def ipc_handle(self, address: int) -> bytes:
        """The 64 bytes by which another process of the machine can open the allocation. Needs a current context."""
        handle = IpcMemHandle()
        self._call("cuIpcGetMemHandle", byref(handle), address)
        return bytes(handle.reserved)

    def pin(self, address: int, size: int) -> None:
        """Page-locks memory of this process (whole pages of it), for copies at full speed. Needs a current context."""
        self._call("cuMemHostRegister_v2", address, size, 0)

    def copy_to_device(self, address: int, source: int, size: int, stream: int) -> None:
        """Begins a copy of `size` bytes from this process's memory, in the order of a stream."""
        self._call("cuMemcpyHtoDAsync_v2", address, source, size, stream)

    def synchronize(self, stream: int) -> None:
        """Waits until everything that was put on a stream has been done."""
        self._call("cuStreamSynchronize", stream)

    def uuid(self, ordinal: int) -> bytes:
        """The UUID (of the MIG instance, where there is one) of a device as this process numbers it."""
        device, uuid = c_int(), Uuid()
        self._call("cuDeviceGet", byref(device), ordinal)
        self._call("cuDeviceGetUuid_v2", byref(uuid), device)
        return ctypes.string_at(ctypes.addressof(uuid), ctypes.sizeof(uuid))
