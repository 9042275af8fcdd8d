"""Driving real vLLM engines: starting them (with vLLM imported beforehand), asking them, cutting them off.

An engine is a session of several processes. Nothing of it outlives the test process: its leader dies with the launcher,
the launcher with us, and every pod ends its engines and looks for what they left behind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from driving import Sidecar, until
from driving.process import Process, session_members

ROOT = Path(__file__).parents[2]
START_S = 150.0
ANSWER_S = 90.0
BLOCK = 32
VOCABULARY = 2048
CORE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % (os.cpu_count() or 1)
"""That an engine computes on, if nobody says otherwise: one for each of the processes that the tests are run in."""

REKINDLE: dict[str, Any] = {
    "kv_connector": "RekindleConnector",
    "kv_connector_module_path": "rekindle_plugins.vllm",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}
USUAL = {
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": BLOCK,
    "max_model_len": 4096,
    "num_gpu_blocks_override": 512,
    "served_model_name": "m",
    "enable_prompt_tokens_details": True,
}


def tokens_of(seed: int, count: int) -> list[int]:
    """A prompt, the same for the same seed."""
    source = random.Random(seed)
    return [source.randrange(3, VOCABULARY) for _ in range(count)]


def complete_tokens(count: int) -> int:
    """How many of `count` tokens lie in complete pages whose KV exists: the last token's is not computed yet."""
    return (count - 1) // BLOCK * BLOCK


class Launcher:
    """Starts engine sessions. `python` is the interpreter of an environment with vLLM."""

    def __init__(self, python: str) -> None:
        self.python = python
        self._preloaded: subprocess.Popen[str] | None = None

    def launch(self, flags: Sequence[str], environ: Mapping[str, str], log: Path, shm_bytes: int = 0) -> int:
        """The process id of the session's leader. `shm_bytes`: the size of a /dev/shm of its own, 0 for the usual."""
        if os.environ.get("REKINDLE_VLLM_COLD") == "1" and not shm_bytes:
            argv = [self.python, "-m", "vllm.entrypoints.openai.api_server", *flags]
            return Process(argv, environ, log).pid
        server = self._server(environ)
        assert server.stdin is not None
        assert server.stdout is not None
        order = {"argv": ["api_server", *flags], "environ": dict(environ), "log": str(log), "shm_bytes": shm_bytes}
        print(json.dumps(order), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    def _server(self, environ: Mapping[str, str]) -> subprocess.Popen[str]:
        if self._preloaded is None:
            self._preloaded = subprocess.Popen(
                [self.python, str(Path(__file__).parent / "preloaded_vllm.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=dict(environ),
                text=True,
            )
            assert self._preloaded.stdout is not None
            while self._preloaded.stdout.readline().strip() != "ready":
                assert self._preloaded.poll() is None, "vLLM could not be imported"
        return self._preloaded

    def close(self) -> None:
        if self._preloaded is not None:
            self._preloaded.kill()
            self._preloaded.wait()


class Stream:
    """One streamed completion, read on a thread of its own."""

    timeout_s = ANSWER_S
    """For the next byte."""

    def __init__(self, engine: VllmEngine, prompt: Sequence[int], max_tokens: int, **fields: Any) -> None:
        self.tokens: list[int] = []
        self.cached_tokens: int | None = None
        """Prompt tokens that were not computed, of the engine's own cache or loaded. Known at the end."""
        self.is_complete = False
        self.error = ""
        body = {
            "model": "m",
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
        self._connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=self.timeout_s)
        self._thread = threading.Thread(target=self._read, args=(json.dumps(body),), daemon=True)
        self._thread.start()

    def _read(self, body: str) -> None:
        try:
            self._connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            if answer.status != 200:
                self.error = f"HTTP {answer.status}: {answer.read(2000).decode(errors='replace')}"
                return
            for line in answer:
                if line.startswith(b"data: {"):
                    self._take(json.loads(line[6:]))
            if not self.is_complete and not self.error:
                self.error = "the stream ended early"
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            self.error = self.error or repr(error)

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.error = str(chunk["error"])
        for choice in chunk.get("choices", ()):
            self.tokens += choice.get("token_ids") or []
        if chunk.get("usage"):
            self.cached_tokens = (chunk["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self.is_complete = True

    def when(self, count: int) -> None:
        """Returns when so many tokens have come."""
        until(f"{count} tokens ({self.error})", lambda: len(self.tokens) >= count or self.error, ANSWER_S)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(ANSWER_S)

    def finish(self) -> Stream:
        """Waits for the end. AssertionError when the engine did not bring it there."""
        self._thread.join(ANSWER_S)
        assert not self._thread.is_alive(), f"no end of the stream within {ANSWER_S} s"
        assert not self.error, self.error
        return self


class Session:
    """A conversation that outlives engines: what its client has seen so far, and how to go on."""

    def __init__(self, prompt: Sequence[int], max_tokens: int, **fields: Any) -> None:
        self.prompt = list(prompt)
        self.max_tokens = max_tokens
        self.fields = fields
        self.tokens: list[int] = []
        self.stream: Stream | None = None

    def go_on(self, engine: VllmEngine) -> Session:
        left = self.max_tokens - len(self.tokens)
        self.stream = engine.stream([*self.prompt, *self.tokens], left, **self.fields) if left else None
        return self

    def cut(self) -> None:
        """After a kill: keeps what has arrived."""
        assert self.stream is not None
        self.stream.hang_up()
        self.tokens += self.stream.tokens

    def finish(self) -> list[int]:
        if self.stream is not None:
            self.tokens += self.stream.finish().tokens
        return self.tokens

    @property
    def cached_tokens(self) -> int:
        assert self.stream is not None
        assert self.stream.cached_tokens is not None
        return self.stream.cached_tokens


class VllmEngine:
    """Keeps its settings over any number of starts, each of which is a fresh engine. `flags`: vLLM's, by name."""

    def __init__(self, launcher: Launcher, model: Path, pod: VllmPod, **flags: Any) -> None:
        self.launcher = launcher
        self.model = model
        self.flags = {**USUAL, "kv_transfer_config": REKINDLE, **flags}
        self.environ: dict[str, str] = {}
        self.shm_bytes = 0
        self.port = 0
        self.fixed_port = 0
        """Where every start listens; 0: each somewhere else."""
        self.pid = 0
        self.start_s = 0.0
        self.log = pod.directory / f"engine{len(pod.engines)}.log"
        self._run_dir = pod.sidecar.run_dir
        self._log_start = 0
        self._leftovers: set[str] = set()

    # -- life --------------------------------------------------------------------------------------------------

    def start(self, **flags: Any) -> VllmEngine:
        """A fresh engine, serving. `flags` are for this start alone."""
        self.begin(**flags)
        return self.wait_until_serving()

    def begin(self, **flags: Any) -> None:
        assert not self.members(), "it is running"
        self.port = self.fixed_port or free_port()
        settings = {"model": str(self.model), "port": self.port, "host": "127.0.0.1", **self.flags, **flags}
        self.log.touch()
        self._log_start = self.log.stat().st_size
        self._began = time.monotonic()
        self.pid = self.launcher.launch(_argv(settings), self._environment(), self.log, self.shm_bytes)

    def _environment(self) -> dict[str, str]:
        ours = ("REKINDLE_", "VLLM_", "PYTHON")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), *filter(None, [os.environ.get("NIXL_PATH")])]),
            "REKINDLE_RUN_DIR": str(self._run_dir),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": str(CORE),
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **self.environ,
        }

    def wait_until_serving(self) -> VllmEngine:
        until("the engine to serve", lambda: self._is_healthy() or not self.is_running, START_S)
        assert self.is_running, f"the engine has ended:\n{self.output()[-4000:]}"
        self.start_s = time.monotonic() - self._began
        self._note_leftovers()
        return self

    def _is_healthy(self) -> bool:
        with contextlib.suppress(OSError), self._get("/health", timeout_s=1) as answer:
            return bool(answer.status == 200)
        time.sleep(0.05)
        return False

    @property
    def is_running(self) -> bool:
        return self.pid in self.members()

    def members(self) -> list[int]:
        return session_members(self.pid) if self.pid else []

    def workers(self) -> list[int]:
        """The processes that hold a rank's memory, those of them that have it shared."""
        pattern = re.compile(r"rw-s .*/torch_\d+")
        return [pid for pid in self.members() if pattern.search(_maps(pid))]

    def freeze(self) -> None:
        """SIGSTOP to the whole process group: what it has done by now is all that it does. Before a `kill`, which takes
        a while to note what the processes leave behind."""
        os.killpg(self.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL to the whole process group at once, and wait until all of it is gone."""
        if not self.pid:
            return
        self._note_leftovers()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.when_gone()

    def when_gone(self, timeout_s: float = 30.0) -> None:
        until("the end of the engine", lambda: not self.members(), timeout_s)
        for path in self._leftovers:
            Path(path).unlink(missing_ok=True)
        self._leftovers.clear()

    def _note_leftovers(self) -> None:
        """The shared memory that vLLM's processes talk through stays behind when they are killed."""
        for pid in self.members():
            self._leftovers |= set(re.findall(r"/dev/shm/(?:psm_|sem\.mp-|vllm_dist_)\S+", _maps(pid)))

    # -- asking ------------------------------------------------------------------------------------------------

    def stream(self, prompt: Sequence[int], max_tokens: int, **fields: Any) -> Stream:
        return Stream(self, prompt, max_tokens, **fields)

    def ask(self, prompt: Sequence[int], max_tokens: int = 16, **fields: Any) -> Stream:
        """One completion, to its end."""
        return self.stream(prompt, max_tokens, **fields).finish()

    def references(self, sessions: Iterable[Session], salt: str = "reference") -> list[list[int]]:
        """What an uninterrupted run answers to each: the same requests under another salt, whose pages are apart."""
        streams = [self.stream(s.prompt, s.max_tokens, **{**s.fields, "cache_salt": salt}) for s in sessions]
        return [stream.finish().tokens for stream in streams]

    def post(self, path: str) -> None:
        """A command of the development server."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", b"", method="POST")
        urllib.request.urlopen(request, timeout=30).close()

    def metric(self, name: str) -> int:
        """A counter's or gauge's sum over its labels."""
        with self._get("/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(rf"^vllm:{name}(?:\{{.*\}})? ([0-9.e+]+)$", text, re.MULTILINE)
        assert found, f"no metric vllm:{name}"
        return int(sum(float(value) for value in found))

    def _get(self, path: str, timeout_s: float = 10.0) -> http.client.HTTPResponse:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout_s)

    def output(self) -> str:
        """What this start has logged so far."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")


class VllmPod:
    """One sidecar, one store in node memory, and some engines. Use as a context manager."""

    def __init__(self, launcher: Launcher, **settings: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rk-"))
        self.store_dir = Path(tempfile.mkdtemp(prefix="rk-", dir="/dev/shm"))
        self.sidecar = Sidecar(self.directory, self.store_dir, **{"store_size": "96MiB"} | settings)
        self.engines: list[VllmEngine] = []
        self._launcher = launcher

    def engine(self, model: Path, **flags: Any) -> VllmEngine:
        """An engine that is yet to be started."""
        engine = VllmEngine(self._launcher, model, self, **flags)
        self.engines.append(engine)
        return engine

    def when_stored(self) -> None:
        """Returns when everything committed so far has been copied."""
        self.sidecar.when_idle()

    def logs(self) -> dict[str, str]:
        """The ends of all logs, for a failed test's report."""
        return {path.name: path.read_text(errors="replace")[-6000:] for path in sorted(self.directory.glob("*.log"))}

    def __enter__(self) -> VllmPod:
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


def make_model(python: str, folder: Path, *options: str) -> Path:
    """A small model on disk; `options` as of make_model.py."""
    command = [python, str(Path(__file__).parents[2] / "examples" / "make_model.py"), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def free_port() -> int:
    """A free port that the kernel gives to nobody who asks it for just any: vLLM binds it some seconds later."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randrange(first // 2, first)
            probe.bind(("127.0.0.1", port))
            return port


def _argv(settings: Mapping[str, Any]) -> list[str]:
    argv: list[str] = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            argv.append(flag)
        elif isinstance(value, list):
            argv += [flag, *map(str, value)]
        else:
            argv += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return argv


def _maps(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "maps").read_text()
    return ""
