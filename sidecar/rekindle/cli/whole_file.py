"""A file written as a whole: whoever reads it sees the old content or the new one, and never half of either."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replaces the file that `path` leads to, symlinks followed; it keeps its mode. A new one has what umask leaves.

    What is no regular file (a pipe, a device) is written into: it cannot be replaced, only be lost. Raises OSError, and
    then the file is as it was.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        mode, path = 0o666 & ~_umask(), Path(os.path.realpath(path))
    else:
        if not stat.S_ISREG(found.st_mode):
            path.write_bytes(content)
            return
        mode = stat.S_IMODE(found.st_mode)
        path = Path(os.path.realpath(path))  # not before: /dev/stdout leads to a name that is no path
        path.open("ab").close()  # a file that may not be written is not replaced either
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """There is no way to ask for it but to set it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
