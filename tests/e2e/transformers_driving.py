"""Driving real transformers engines: `examples/transformers_engine/lines_engine.py` in its own environment."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from driving import Sidecar, until
from driving.process import Process

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "examples" / "transformers_engine" / "lines_engine.py"
PLUGIN = "rekindle_transformers:protect"
START_S = 150.0
ANSWER_S = 90.0
BLOCK = 16
VOCABULARY = 2048


def prompt_of(seed: int, count: int) -> list[int]:
    """The same for the same seed."""
    source = random.Random(seed)
    return [source.randrange(3, VOCABULARY) for _ in range(count)]


def complete_tokens(count: int) -> int:
    """How many of `count` tokens lie in complete pages whose KV exists: the last token's is not computed yet."""
    return (count - 1) // BLOCK * BLOCK


class Answer:
    """One request's answer, read on a thread of its own."""

    def __init__(self, port: int, prompt: Sequence[int], max_tokens: int) -> None:
        self.tokens: list[int] = []
        self.cached_tokens: int | None = None
        self.error = ""
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        self._line = json.dumps({"prompt": list(prompt), "max_tokens": max_tokens}).encode() + b"\n"
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._connection, self._connection.makefile("rb") as lines:
                self._connection.sendall(self._line)
                for line in lines:
                    fields = json.loads(line)
                    self.tokens += fields.get("tokens", ())
                    self.error = fields.get("error", "")
                    self.cached_tokens = fields.get("cached_tokens")
        except (OSError, ValueError) as error:
            self.error = repr(error)

    def when(self, count: int) -> None:
        """Returns when so many tokens have come."""
        until(f"{count} tokens ({self.error})", lambda: len(self.tokens) >= count or self.error, ANSWER_S)

    def cut(self) -> list[int]:
        """After a kill: what has arrived."""
        self._thread.join(ANSWER_S)
        return self.tokens

    def finish(self) -> Answer:
        """Waits for the end. AssertionError when the engine did not bring it there."""
        self._thread.join(ANSWER_S)
        assert not self.error, self.error
        assert self.cached_tokens is not None, "the answer ended early"
        return self


class TransformersEngine:
    """Keeps its settings over any number of starts, each a fresh engine. `flags`: the program's, by name."""

    def __init__(self, python: str, model: Path, pod: TransformersPod, plugin: bool = True, **flags: int) -> None:
        self.model = model
        self.port = 0
        self.process: Process | None = None
        self._python = python
        self._plugin = plugin
        self._flags = {"page_size": BLOCK, **flags}
        self._run_dir = pod.sidecar.run_dir
        self._log = pod.directory / f"engine{len(pod.engines)}.log"

    def start(self) -> TransformersEngine:
        argv = [self._python, str(ENGINE), "--model", str(self.model)]
        argv += [part for name, value in self._flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        argv += ["--plugin", PLUGIN] if self._plugin else []
        ours = ("REKINDLE_", "PYTHON")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environ |= {"REKINDLE_RUN_DIR": str(self._run_dir), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.process = Process(argv, environ, self._log)
        self.port = int(self.process.wait_for_line("listening on ", START_S).split()[-1])
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill_session()

    def output(self) -> str:
        assert self.process is not None
        return self.process.output()

    def stream(self, prompt: Sequence[int], max_tokens: int) -> Answer:
        return Answer(self.port, prompt, max_tokens)

    def ask(self, prompt: Sequence[int], max_tokens: int) -> Answer:
        return self.stream(prompt, max_tokens).finish()


class TransformersPod:
    """One sidecar, one store in node memory, and some engines. Use as a context manager."""

    def __init__(self, python: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rk-"))
        self.store_dir = Path(tempfile.mkdtemp(prefix="rk-", dir="/dev/shm"))
        self.sidecar = Sidecar(self.directory, self.store_dir, store_size="64MiB")
        self.engines: list[TransformersEngine] = []
        self._python = python

    def engine(self, model: Path, plugin: bool = True, **flags: int) -> TransformersEngine:
        """An engine that is yet to be started."""
        engine = TransformersEngine(self._python, model, self, plugin, **flags)
        self.engines.append(engine)
        return engine

    def logs(self) -> dict[str, str]:
        """The ends of all logs, for a failed test's report."""
        return {path.name: path.read_text(errors="replace")[-6000:] for path in sorted(self.directory.glob("*.log"))}

    def __enter__(self) -> TransformersPod:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for engine in self.engines:
                engine.kill()
            for process in self.sidecar.sessions:
                process.kill_session()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            shutil.rmtree(self.store_dir, ignore_errors=True)


def make_model(python: str, folder: Path, seed: int) -> Path:
    """A small Llama on disk."""
    command = [python, str(ROOT / "examples" / "make_model.py"), str(folder), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder
