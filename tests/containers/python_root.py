"""A root file system with this very Python, a shell and what both are linked to. Nothing is fetched, nothing installed.

Everything lies where it lies here, so that the interpreter, its virtual environments and its wheels fit. A base image
of another origin would be as good for the Dockerfile; this one is there in seconds, and needs no network.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

TOOLS = ("sh", "ls", "cat", "env", "mkdir", "cp", "rm")
LIBRARIES = ("libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "librt.so.1", "libdl.so.2", "libpthread.so.0")
"""What wheels may be linked to."""
LEFT_OUT = frozenset({"test", "tests", "idlelib", "turtledemo", "tkinter", "site-packages", "dist-packages"})
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
FOLDERS = ("tmp", "run", "proc", "sys", "dev", "etc", "var/lib", "opt", "usr/bin")


def write(path: Path) -> None:
    """A tar for `podman import`. AssertionError where a part is not to be found here."""
    python = Path(os.path.realpath(sys.executable))
    tools = [_program(name) for name in TOOLS]
    stdlib = Path(sysconfig.get_path("stdlib"))
    files = {python: python, **{Path("/bin", name): tool for name, tool in zip(TOOLS, tools, strict=True)}}
    files.update({file: file for file in _standard_library(stdlib)})
    binaries = [python, *tools, *(file for file in files if file.suffix == ".so")]
    files.update({library: library for library in {*_linked(binaries), *_known_libraries()}})
    with tarfile.open(path, "w") as tar:
        for folder in sorted({*FOLDERS, *_folders(files)}):
            _add_folder(tar, folder)
        for name, source in files.items():
            _add_file(tar, name, source)
        for name in ("python3", "python"):
            link = tarfile.TarInfo(f"usr/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(python)
            tar.addfile(link)
        passwd = tarfile.TarInfo("etc/passwd")
        passwd.size, passwd.mode = len(PASSWD), 0o644
        tar.addfile(passwd, io.BytesIO(PASSWD.encode()))


def _standard_library(stdlib: Path) -> Iterator[Path]:
    """With its bytecode; and the wheels that `venv` installs, which Debian keeps elsewhere."""
    for folder, folders, names in os.walk(stdlib):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
        yield from (file for name in names if (file := Path(folder, name)).is_file())
    yield from Path("/usr/share/python-wheels").glob("*.whl")


def _program(name: str) -> Path:
    found = shutil.which(name)
    assert found is not None, f"no {name} on this machine"
    return Path(os.path.realpath(found))


def _linked(binaries: Iterable[Path]) -> set[Path]:
    """All that they are linked to, directly or not, as the loader finds it here."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, timeout=60, check=False)
    return {Path(found) for found in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE)}


def _known_libraries() -> set[Path]:
    program = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    assert program is not None, "no ldconfig on this machine"
    listed = subprocess.run([program, "-p"], capture_output=True, text=True, timeout=60, check=True).stdout
    machine = os.uname().machine.replace("_", "-")
    found: dict[str, Path] = {}
    for name, kind, path in re.findall(r"^\s+(\S+) \(([^)]*)\) => (\S+)", listed, re.MULTILINE):
        if name in LIBRARIES and machine in kind.replace("_", "-").replace("AArch64", "aarch64"):
            found.setdefault(name, Path(path))
    assert "libstdc++.so.6" in found, "no libstdc++ on this machine"
    return set(found.values())


def _folders(files: Iterable[Path]) -> set[str]:
    return {str(parent).lstrip("/") for file in files for parent in file.parents if str(parent) != "/"}


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    tar.addfile(entry)


def _add_file(tar: tarfile.TarFile, name: Path, source: Path) -> None:
    """As root's, and readable for everybody."""
    real = Path(os.path.realpath(source))
    entry = tar.gettarinfo(str(real), str(name).lstrip("/"))
    entry.type = tarfile.REGTYPE  # hard links would need their first name
    entry.size, entry.linkname = real.stat().st_size, ""
    entry.uid = entry.gid = 0
    entry.mode |= 0o444 | (0o111 if entry.mode & 0o100 else 0)
    with real.open("rb") as content:
        tar.addfile(entry, content)
