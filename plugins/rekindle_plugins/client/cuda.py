"""Handing an engine's GPU memory over: find the allocation behind a buffer, and export it the way it can be.

Runs in the process that owns the memory, on any thread, once at start-up. There are two ways:

    cudaMalloc (torch's default)         legacy IPC handle       needs a shared PID namespace and the same user
    cuMemCreate with a POSIX handle type descriptors (VMM)       needs nothing but the attach socket

Memory that allows neither is refused with the engine's setting that makes it so. `torch`'s own IPC is not used: it
counts references in a file that both containers would have to share, and keeps memory alive for a peer that is gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rekindle_plugins.client.cuda_driver import (
    MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
    POINTER_ATTRIBUTE_DEVICE_ORDINAL,
    POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
    POINTER_ATTRIBUTE_MAPPING_BASE_ADDR,
    POINTER_ATTRIBUTE_MAPPING_SIZE,
    Driver,
)
from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM, MAX_DESCRIPTORS, DeviceBuffer

NOT_EXPORTABLE = (
    "start the engine without sleep mode (vLLM: --enable-sleep-mode) and with "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False, or let its allocator create memory with "
    "CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR"
)
POOL_MEMORY = "it may come from a memory pool: start the engine without PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync"
TOO_MANY_PIECES = "start the engine with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False"


@dataclass(frozen=True)
class Exported:
    """What a region says about its memory (`Region.kind`, `Region.devices`), and the descriptors that go with it."""

    kind: str
    devices: tuple[DeviceBuffer, ...]
    fds: tuple[int, ...]


def export_buffers(buffers: Sequence[tuple[int, int]]) -> Exported:
    """Exports buffers given as (device address, size in bytes). The caller owns the descriptors.

    Raises DeviceError: no driver, an address that is no GPU memory, memory that cannot be shared, or buffers of which
    some need one way and some the other. No descriptor is left open then.
    """
    driver = Driver()
    fds: list[int] = []
    kinds: dict[str, int] = {}
    devices = []
    try:
        for address, size in buffers:
            kind, device, pieces = _export(driver, address, size)
            fds.extend(pieces)
            kinds.setdefault(kind, address)
            devices.append(device)
            if len(fds) > MAX_DESCRIPTORS:
                problem = f"the KV cache is put together of more than {MAX_DESCRIPTORS} allocations"
                raise DeviceError("export", "GPU memory", problem, TOO_MANY_PIECES)
        if len(kinds) != 1:
            problem = "some of it was made by cudaMalloc and some by cuMemCreate"
            raise DeviceError("export", "GPU memory", problem, NOT_EXPORTABLE)
    except BaseException:
        _close(fds)
        raise
    return Exported(next(iter(kinds)), tuple(devices), tuple(fds))


def _export(driver: Driver, address: int, size: int) -> tuple[str, DeviceBuffer, list[int]]:
    subject = f"GPU memory at {address:#x}"
    try:
        ordinal = driver.attribute(POINTER_ATTRIBUTE_DEVICE_ORDINAL, address)
    except DeviceError as error:
        raise DeviceError(
            "export", subject, f"the driver does not know it: {error.problem}", result=error.result
        ) from error
    gpu = driver.uuid(ordinal).hex()
    if driver.attribute(POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, address) & 0xFF:
        with driver.context_of(address):
            base, allocated = driver.address_range(address)
            handle = driver.ipc_handle(address).hex()
        return CUDA_IPC, DeviceBuffer(gpu, address - base, (allocated,), handle), []
    base, pieces, fds = _export_pieces(driver, subject, address, size)
    return CUDA_VMM, DeviceBuffer(gpu, address - base, tuple(pieces)), fds


def _export_pieces(driver: Driver, subject: str, address: int, size: int) -> tuple[int, list[int], list[int]]:
    """(base, sizes, descriptors) of the allocations mapped under a buffer, in order of address."""
    base = at = driver.attribute(POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, address)
    pieces: list[int] = []
    fds: list[int] = []
    try:
        while at < address + size and len(fds) <= MAX_DESCRIPTORS:
            fds.append(_export_piece(driver, subject, at))
            pieces.append(driver.attribute(POINTER_ATTRIBUTE_MAPPING_SIZE, at))
            at += pieces[-1]
    except BaseException:
        _close(fds)
        raise
    return base, pieces, fds


def _export_piece(driver: Driver, subject: str, address: int) -> int:
    try:
        handle = driver.retain(address)
    except DeviceError as error:
        problem = f"it can be shared neither as an IPC handle nor as a descriptor: {error.problem}"
        raise DeviceError("export", subject, problem, POOL_MEMORY, error.result) from error
    try:
        if not driver.handle_types(handle) & MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR:
            problem = "it was created by cuMemCreate without a handle type that can be exported"
            raise DeviceError("export", subject, problem, NOT_EXPORTABLE)
        return driver.export_fd(handle)
    finally:
        driver.release(handle)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
