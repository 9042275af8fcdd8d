"""Make the checked-in Python of the admin API from its proto, or check that it is current.

A developer's command (``python -m rekindle.admin.generate [--check]``, needs grpcio-tools); never run by the
sidecar. The proto is compiled from the source root, so the generated imports are absolute (``rekindle.admin.v1``)
and its name in the descriptor pool is one that nobody else uses.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE_ROOT = Path(__file__).resolve().parents[2]
PROTO = Path("rekindle/admin/v1/admin.proto")
GENERATED = ("admin_pb2.py", "admin_pb2.pyi", "admin_pb2_grpc.py")


def generate(target: Path) -> dict[str, bytes]:
    """Compile the proto into ``target`` (an existing folder); the files' bytes by name.

    Raises:
        ModuleNotFoundError: grpcio-tools is not installed.
        RuntimeError: protoc refused the proto; it has printed why.
    """
    compiler: Any = importlib.import_module("grpc_tools.protoc")  # it ships no types
    well_known = Path(compiler.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    code = compiler.main(["protoc", f"-I{SOURCE_ROOT}", f"-I{well_known}", *outputs, str(SOURCE_ROOT / PROTO)])
    if code != 0:
        raise RuntimeError(f"protoc exited with {code}")
    return {name: (target / PROTO.parent / name).read_bytes() for name in GENERATED}


def checked_in() -> dict[str, bytes]:
    """The generated files as they lie in the source tree, by name; empty bytes where one is missing."""
    files = {name: SOURCE_ROOT / PROTO.parent / name for name in GENERATED}
    return {name: path.read_bytes() if path.exists() else b"" for name, path in files.items()}


def tool_version(files: dict[str, bytes]) -> str:
    """Which grpcio-tools made the files: another release writes other bytes."""
    found = re.search(rb"GRPC_GENERATED_VERSION = '(.+)'", files["admin_pb2_grpc.py"])
    return found[1].decode() if found else "unknown"


def main() -> int:
    """Write the files, or with ``--check`` compare them. 0 where all is current, else 1."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    stale = [name for name, content in checked_in().items() if content != fresh[name]]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{PROTO.parent / name} is not what {PROTO.name} gives: run python -m rekindle.admin.generate")
        return 1 if stale else 0
    for name in stale:
        (SOURCE_ROOT / PROTO.parent / name).write_bytes(fresh[name])
        print(f"wrote {PROTO.parent / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
