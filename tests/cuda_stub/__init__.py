"""The stand-in for the CUDA driver library (`stub.c`): building it, and telling it what to do.

It is found like the real one, by its soname: processes get `environ` (LD_LIBRARY_PATH), the test process loads it once.
So the code under test has no switch for it.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
GPU = "4d1f0000aa00bb00cc00dd0000000001"
OTHER_GPU = "4d1f0000aa00bb00cc00dd0000000002"
TOTAL_BYTES = 64 << 20
LARGEST_PITCH = 1 << 20
CUDA_INCLUDES = [path for path in ("/usr/local/cuda/include", "/usr/local/cuda-13.0/include") if os.path.isdir(path)]

INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT, ECC_UNCORRECTABLE = 1, 2, 201, 214
_FAULTS_OFFSET, _FAULT, _MAX_FAULTS = 64, struct.Struct("<56sii"), 8


def missing() -> str:
    """Why the stand-in cannot be built here; "" when it can."""
    return "" if shutil.which("gcc") else "no gcc to build the stand-in for the CUDA driver with"


def build() -> Path:
    """The folder with libcuda.so.1, built once for these sources."""
    sources = [HERE / "stub.c", HERE / "cuda_types.h"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + repr(CUDA_INCLUDES).encode())
    folder = Path(tempfile.gettempdir(), f"rekindle-cuda-stub-{os.getuid()}-{digest.hexdigest()[:16]}")
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        made = folder / f"making-{os.getpid()}"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
        includes = [f"-I{path}" for path in CUDA_INCLUDES]
        subprocess.run(
            ["gcc", *flags, *includes, "-Wl,-soname,libcuda.so.1", "-o", made, sources[0], "-lpthread", "-ldl"],
            check=True,
        )
        made.rename(library)
    return folder


class Stub:
    """One set of GPUs of the stand-in, with its memory in a folder of its own in /dev/shm."""

    def __init__(self) -> None:
        self.folder = build()
        self.directory = Path(tempfile.mkdtemp(prefix="rekindle-cuda-stub-", dir="/dev/shm"))
        with (self.directory / "control").open("w+b") as file:
            file.truncate(_FAULTS_OFFSET + _FAULT.size * _MAX_FAULTS)
            self._control = mmap.mmap(file.fileno(), 0)
        self._loaded: ctypes.CDLL | None = None
        self.reset()

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to find this stand-in, and one GPU in it."""
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("LD_LIBRARY_PATH", "")]))
        return {"LD_LIBRARY_PATH": path, "CUDA_STUB_DIR": str(self.directory), "CUDA_STUB_UUIDS": GPU}

    def load(self) -> None:
        """Into this process, so that `libcuda.so.1` is this one from now on. Its folder cannot be changed then."""
        os.environ.update(self.environ)
        self._loaded = ctypes.CDLL(str(self.folder / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)

    def reset(self) -> None:
        """No faults, no delay, counters at 0; in this process, nothing mapped and nothing page-locked."""
        if self._loaded is not None:
            self._loaded.rekindle_stub_forget()
        self._control[:] = bytes(len(self._control))
        struct.pack_into("<QIII", self._control, 0, TOTAL_BYTES, 0, 0, LARGEST_PITCH)

    def set(self, total_bytes: int = TOTAL_BYTES, delay_us: int = 0, largest_pitch: int = LARGEST_PITCH) -> None:
        struct.pack_into("<Q", self._control, 0, total_bytes)
        struct.pack_into("<II", self._control, 12, delay_us, largest_pitch)

    def hold(self, on: bool) -> None:
        """Copies stop in the middle of their next segment, and go on when this is off."""
        struct.pack_into("<I", self._control, 8, on)

    def fail(self, name: str, result: int, after: int = 0) -> None:
        """The driver function of that name, or "async_copy", fails from its call number `after` on (from 0)."""
        for index in range(_MAX_FAULTS):
            at = _FAULTS_OFFSET + index * _FAULT.size
            if not _FAULT.unpack_from(self._control, at)[1]:
                _FAULT.pack_into(self._control, at, name.encode(), result, after)
                return
        raise AssertionError("too many faults")

    @property
    def copies_begun(self) -> int:
        return int(struct.unpack_from("<I", self._control, 20)[0])

    @property
    def copies_2d(self) -> int:
        return int(struct.unpack_from("<I", self._control, 28)[0])

    @property
    def pinned_bytes(self) -> int:
        return int(struct.unpack_from("<Q", self._control, 32)[0])

    def mappers(self) -> list[int]:
        """Processes that have device memory mapped."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and f"{self.directory}/alloc-" in Path("/proc", entry, "maps").read_text():
                    found.append(int(entry))
            except OSError:
                continue
        return found

    def close(self) -> None:
        self._control.close()
        shutil.rmtree(self.directory, ignore_errors=True)
