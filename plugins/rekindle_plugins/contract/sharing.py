"""How the buffers of a region are shared with the sidecar: what each kind of memory needs beyond a buffer's size.

    kind       descriptors with the hello        what else, for each buffer
    shm        one for each buffer               nothing
    cuda_ipc   none                              GPU, handle of the allocation, the buffer's offset in it
    cuda_vmm   one for each piece of a buffer    GPU, the pieces' sizes, the buffer's offset in the first

GPUs are named by UUID: two containers may number them differently. A handle names a whole allocation, so a buffer
that lies within one says where. VMM memory is put together of pieces (`cuMemMap`), each an allocation of its own:

    piece 0              piece 1            piece 2
    ├────────────────────┼──────────────────┼──────────────────┤
         ├ offset ─▶ buffer ──────────────────────────┤
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SHM = "shm"
CUDA_IPC = "cuda_ipc"
CUDA_VMM = "cuda_vmm"
KINDS = (SHM, CUDA_IPC, CUDA_VMM)

IPC_HANDLE_BYTES = 64
"""CU_IPC_HANDLE_SIZE."""
UUID_BYTES = 16
MAX_DESCRIPTORS = 250
"""What one packet of the attach protocol may carry (`wire.MAX_FDS`)."""
MAX_BYTES = 1 << 48


@dataclass(frozen=True)
class DeviceBuffer:
    """Where one buffer of a region lies in GPU memory."""

    gpu: str
    """UUID, 32 hexadecimal digits."""
    offset: int
    """Of the buffer, from the start of its allocation (of the first piece)."""
    pieces: tuple[int, ...]
    """Sizes in bytes of the allocations that the buffer lies in, in order of address. One under `cuda_ipc`."""
    handle: str = ""
    """`cuda_ipc`: the 64 bytes of cuIpcGetMemHandle in hexadecimal."""

    def problem(self, kind: str, size: int) -> str:
        """What cannot be, in a buffer of `size` bytes shared as `kind`; "" when it can."""
        if not _is_hex(self.gpu, UUID_BYTES):
            return f"its GPU is {self.gpu!r:.50}, not a UUID"
        if not self.pieces or not all(0 < piece <= MAX_BYTES for piece in self.pieces):
            return f"its allocations have {self.pieces!r:.50} bytes"
        if not 0 <= self.offset < self.pieces[0] or self.offset + size > sum(self.pieces):
            return f"{size} bytes at {self.offset} leave an allocation of {sum(self.pieces)}"
        if kind == CUDA_IPC and (len(self.pieces) != 1 or not _is_hex(self.handle, IPC_HANDLE_BYTES)):
            return f"its handle {self.handle!r:.20} does not name one allocation"
        if kind == CUDA_VMM and self.handle:
            return "it has a handle, but its memory comes with descriptors"
        return ""

    @staticmethod
    def from_json(data: Any) -> DeviceBuffer:
        """Raises KeyError, TypeError or AttributeError for what is none; the values are not judged here."""
        numbers = [data["offset"], *data["pieces"]]
        if not all(type(number) is int for number in numbers):
            raise TypeError(f"{numbers!r:.80} are not integers")
        return DeviceBuffer(str(data["gpu"]), numbers[0], tuple(numbers[1:]), str(data.get("handle", "")))


def problem_of(kind: str, sizes: tuple[int, ...], devices: tuple[DeviceBuffer, ...]) -> str:
    """What cannot be in how a region's buffers are shared; "" when it can. Kinds that we do not know are not judged."""
    if kind not in (CUDA_IPC, CUDA_VMM):
        return f"memory of kind {kind!r:.20} does not lie on a GPU" if devices else ""
    if len(devices) != len(sizes):
        return f"{len(devices)} of {len(sizes)} buffers say where they lie on the GPU"
    for index, (device, size) in enumerate(zip(devices, sizes, strict=True)):
        problem = device.problem(kind, size)
        if problem:
            return f"buffer {index}: {problem}"
    if len({device.gpu for device in devices}) != 1:
        return "its buffers lie on more than one GPU"
    if descriptor_count(kind, sizes, devices) > MAX_DESCRIPTORS:
        return f"its memory is in more than {MAX_DESCRIPTORS} pieces"
    return ""


def descriptor_count(kind: str, sizes: tuple[int, ...], devices: tuple[DeviceBuffer, ...]) -> int:
    """How many descriptors come with a region."""
    if kind == CUDA_VMM:
        return sum(len(device.pieces) for device in devices)
    return 0 if kind == CUDA_IPC else len(sizes)


def _is_hex(text: str, count: int) -> bool:
    try:
        return len(text) == 2 * count and len(bytes.fromhex(text)) == count
    except ValueError:
        return False
