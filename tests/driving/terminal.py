"""A program in a real terminal: tmux on a private socket, which draws what the program writes and takes keys."""

from __future__ import annotations

import os
import shlex
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from driving.polling import until


class Terminal:
    """One tmux server with one window. Use as a context manager: at its end the server and the program are killed."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], width: int = 80, height: int = 24) -> None:
        self._socket = f"rekindle-{uuid.uuid4().hex}"
        # COLUMNS and LINES would be believed more than the terminal itself; pytest-xdist sets one.
        clean = {name: value for name, value in environ.items() if not name.startswith(("TMUX", "COLUMNS", "LINES"))}
        self._environ = clean | {"LC_ALL": "C.UTF-8"}
        # The shell that stays shows how the program ended, and whether the terminal is as it was before.
        script = f"trap : INT; {shlex.join(argv)}; echo ended with $?; read line; echo heard $line; exec cat"
        size = ["-x", str(width), "-y", str(height)]
        self._tmux("-f", os.devnull, "new-session", "-d", *size, "sh", "-c", script)

    def screen(self) -> str:
        """What is to be seen now, without colours."""
        return self._tmux("capture-pane", "-p")

    def coloured(self) -> str:
        return self._tmux("capture-pane", "-p", "-e")

    def keys(self, *names: str) -> None:
        """As tmux calls them: q, Enter, C-c."""
        self._tmux("send-keys", *names)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def when(self, *words: str, timeout_s: float = 20.0) -> str:
        """The first screen that has all these words."""

        def find() -> str:
            screen = self.screen()
            return screen if all(word in screen for word in words) else ""

        try:
            return until(f"{words} on the screen", find, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None

    @property
    def in_alternate_screen(self) -> bool:
        return self._tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], capture_output=True, timeout=20, check=False)
        directory = Path(os.environ.get("TMUX_TMPDIR", "/tmp"), f"tmux-{os.getuid()}")
        (directory / self._socket).unlink(missing_ok=True)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-L", self._socket, *arguments]
        run = subprocess.run(command, env=self._environ, capture_output=True, text=True, timeout=20, check=False)
        assert run.returncode == 0, f"tmux {arguments[0]}: {run.stderr}"
        return run.stdout

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
