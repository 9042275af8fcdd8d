"""A digest of model or adapter files that changes when the weights change, without reading them all.

Runs in the engine process once at start, after the weights were loaded (so the pages it reads are in the page cache).
Headers and sizes alone would call two fine-tunes of one base equal, since shapes and names are the same. So bytes are
sampled from every tensor: 64 bytes at each of up to 16 places. Files up to 64 MiB (adapters, small models) are read
whole. What sampling cannot see: an edit that misses every sampled place of every tensor of a large file.

Format of a safetensors file: u64 length n, n bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}}, data.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from rekindle_plugins.contract.errors import IdentityError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz", ".ckpt", ".tensors")
CONFIG_NAMES = ("config.json", "adapter_config.json", "quantize_config.json", "hf_quant_config.json")
WHOLE_FILE_BYTES = 64 << 20
SAMPLE_BYTES = 64
SAMPLES_PER_TENSOR = 16
MAX_HEADER_BYTES = 256 << 20


def digest_model_files(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 over the weight and configuration files of a directory, or of one file.

    Raises IdentityError when there is nothing to digest or a file cannot be read.
    """
    root = Path(path)
    try:
        files = [root] if root.is_file() else sorted(p for p in root.iterdir() if _counts(p))
        if not any(p.suffix in WEIGHT_SUFFIXES for p in files):
            raise IdentityError("identify", f"model files in {root}", "no weight files were found there")
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            _digest_file(file, digest)
    except OSError as error:
        raise IdentityError("identify", f"model files in {root}", str(error)) from error
    return digest.hexdigest()


def _counts(path: Path) -> bool:
    return path.is_file() and (path.suffix in WEIGHT_SUFFIXES or path.name in CONFIG_NAMES)


def _digest_file(path: Path, digest: hashlib._Hash) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size <= WHOLE_FILE_BYTES:
            while chunk := os.read(fd, 1 << 20):
                digest.update(chunk)
            return
        for begin, end in _spans(fd, path, size, digest):
            _sample(fd, begin, end, digest)
    finally:
        os.close(fd)


def _spans(fd: int, path: Path, size: int, digest: hashlib._Hash) -> list[tuple[int, int]]:
    """The tensors' byte ranges; for another format, the file in 1,024 pieces."""
    if path.suffix != ".safetensors":
        return [(size * i // 1024, size * (i + 1) // 1024) for i in range(1024)]
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
        raise IdentityError("identify", f"model file {path.name}", f"a header of {length} bytes in {size}")
    header = os.pread(fd, length, 8)
    digest.update(header)
    try:
        tensors = [entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"]
        spans = sorted((8 + length + int(begin), 8 + length + int(end)) for begin, end in tensors)
        if any(not 8 + length <= begin <= end <= size for begin, end in spans):
            raise ValueError("a tensor lies outside the file")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise IdentityError("identify", f"model file {path.name}", f"its header is malformed: {error!r}") from error
    return spans


def _sample(fd: int, begin: int, end: int, digest: hashlib._Hash) -> None:
    """Evenly spread places, the first and the last bytes among them."""
    room = max(0, end - begin - SAMPLE_BYTES)
    places = min(SAMPLES_PER_TENSOR, room // SAMPLE_BYTES + 1)
    for i in range(places):
        offset = begin + (room * i // (places - 1) if places > 1 else 0)
        digest.update(os.pread(fd, min(SAMPLE_BYTES, end - offset), offset))
