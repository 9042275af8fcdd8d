"""The engines that the demo and the benchmarks can start: their commands, and their life in a process group.

An engine is started in a session of its own with a parent-death signal, so that it cannot outlive us, and ended by
killing its group: the group's number is ours as long as its leader has not been reaped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import rekindle_plugins
from rekindle_plugins.contract.errors import ConfigError, UnavailableError
from rekindle_plugins.nano.adapter import NanoAdapter
from rekindle_plugins.vllm.adapter import VllmAdapter

from rekindle.demo.stream import is_up

_POLL_S = 0.005


@dataclass(frozen=True)
class EngineKind:
    """How to start one kind of engine, and what to ask of it."""

    name: str
    prompt_tokens: int
    answer_tokens: int
    vocabulary: range
    start_timeout_s: float
    command: Callable[[int, bool], list[str]]
    """(port, with Rekindle) → argv."""
    environment: dict[str, str]


@dataclass
class Engine:
    """One running engine."""

    kind: EngineKind
    log: Path
    port: int = 0
    started_at: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, run_dir: Path | None) -> None:
        """`run_dir`: the sidecar's, or None to run without Rekindle. Returns at once."""
        self.port = self.port or free_port()
        environment = {**os.environ, **self.kind.environment}
        if run_dir is not None:
            environment["REKINDLE_RUN_DIR"] = str(run_dir)
        parent = os.getpid()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.kind.command(self.port, run_dir is not None),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),
            )
        self.started_at = time.monotonic()

    def wait_up(self) -> float:
        """Seconds from start to the first healthy answer. Raises UnavailableError."""
        deadline = self.started_at + self.kind.start_timeout_s
        while time.monotonic() < deadline:
            if is_up(self.port):
                return time.monotonic() - self.started_at
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(_POLL_S)
        tail = self.log.read_text(errors="replace")[-2000:]
        self.kill()
        raise UnavailableError("start", f"the {self.kind.name} engine", f"it did not come up; its log ends:\n{tail}")

    def kill(self) -> None:
        """SIGKILL to the whole group, and wait until its leader is gone."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def die_with(parent: int) -> None:
    """For a child, before it becomes its program: the kernel kills it when the process `parent` ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nano_kind() -> EngineKind:
    """The nano engine of this repository. Raises ConfigError where only the wheel is installed."""
    examples = Path(__file__).parents[3] / "examples"
    if not (examples / "nano_engine").is_dir():
        raise ConfigError(
            "start", "the nano engine", f"it is not in {examples}", "run the demo from a clone of the repository"
        )

    def command(port: int, with_rekindle: bool) -> list[str]:
        argv = [sys.executable, "-m", "nano_engine", "--port", str(port), "--layers", "6", "--heads", "8"]
        argv += ["--pages", "1024"]
        return argv + (list(NanoAdapter().flags()) if with_rekindle else [])

    path = os.pathsep.join([str(examples), *_plugin_path()])
    return EngineKind("nano", 1600, 120, range(32, 127), 20.0, command, {"PYTHONPATH": path})


def make_small_model(python: str, folder: Path, hidden: int = 512, layers: int = 8) -> Path:
    """A small llama with random weights, made in the engine's environment. Raises ConfigError."""
    _check_interpreter(python)
    script = Path(__file__).parents[3] / "examples" / "make_model.py"
    argv = [python, str(script), str(folder), "--hidden", str(hidden), "--layers", str(layers)]
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ConfigError("make", "a small model", made.stderr[-500:] or f"{script} failed", "name one with --model")
    return folder


def _check_interpreter(python: str) -> None:
    if not python or not Path(python).exists():
        hint = "`make test-vllm` makes such an environment; name its interpreter in VLLM_PYTHON"
        raise ConfigError("start", "vLLM", f"there is no interpreter at {python or '(not set)'}", hint)


def vllm_kind(python: str, model: Path) -> EngineKind:
    """A real vLLM on the CPU. `python`: the interpreter of an environment that has it. Raises ConfigError."""
    _check_interpreter(python)

    def command(port: int, with_rekindle: bool) -> list[str]:
        argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
        argv += ["--served-model-name", "m", "--dtype", "float32", "--enforce-eager", "--block-size", "32"]
        argv += ["--max-model-len", "4096", "--enable-prompt-tokens-details"]
        return argv + (list(VllmAdapter().flags()) if with_rekindle else [])

    environment = {
        "PYTHONPATH": os.pathsep.join(_plugin_path()),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return EngineKind("vllm", 2048, 160, range(3, 2000), 240.0, command, environment)


def _plugin_path() -> list[str]:
    """The folder that holds `rekindle_plugins`: all that an engine needs of us."""
    return [str(Path(next(iter(rekindle_plugins.__path__))).parent)]
