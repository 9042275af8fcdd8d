"""vLLM's API server with its imports done beforehand: `VLLM_PYTHON preloaded_vllm.py`, then orders on stdin.

Importing vLLM takes 15 to 30 s of CPU time in each of an engine's three processes. Here it is imported once; each order
(a line of JSON: argv, environ, log, shm_bytes) forks a process that becomes the session leader of an engine, and is
answered with its process id. The engine's own processes are forked as well, where vLLM would spawn them. All else is as
with `python -m vllm.entrypoints.openai.api_server`, and most tests can be run with that (REKINDLE_VLLM_COLD=1); those
that need asynchronous scheduling, which vLLM turns off on the CPU, or a /dev/shm of their own, cannot.

Whatever was started here ends with this process (PR_SET_PDEATHSIG), and this process with its parent.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import sys
from typing import Any

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
SERVER = "vllm.entrypoints.openai.api_server"
PRELOADED = (
    SERVER,
    "vllm.entrypoints.launchers.api_server.entry",  # since 0.30 or so
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.distributed.kv_transfer.kv_connector.v1.base",
)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def mount_own_shm(size_bytes: int) -> None:
    """A /dev/shm for this process and its children alone. Needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size_bytes}".encode()
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options)
    ):
        raise OSError(ctypes.get_errno(), "a /dev/shm of our own")


def allow_async_scheduling() -> None:
    """vLLM turns it off on the CPU, where it gains nothing. It works there, and it is what GPUs run with."""
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def check_and_keep(cls: type, vllm_config: Any) -> None:
        wanted = vllm_config.scheduler_config.async_scheduling
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = wanted

    CpuPlatform.check_and_update_config = classmethod(check_and_keep)


def preload() -> None:
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("fork" if method == "spawn" else method)
    os.register_at_fork(after_in_child=die_with_parent)


def become_engine(order: dict, ready: int) -> None:
    """In the child. Closes `ready` when it leads its session. Returns when the engine has ended."""
    os.setsid()
    os.close(ready)
    if order["shm_bytes"]:
        mount_own_shm(order["shm_bytes"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.argv = order["argv"]
    if "--async-scheduling" in sys.argv:
        allow_async_scheduling()
    try:
        entry = importlib.import_module("vllm.entrypoints.launchers.api_server.entry")
    except ModuleNotFoundError:
        sys.modules.pop(SERVER)
        runpy.run_module(SERVER, run_name="__main__", alter_sys=False)
    else:
        entry.main()


def main() -> None:
    die_with_parent()
    preload()
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the engines: the kernel takes them away
    print("ready", flush=True)
    for line in sys.stdin:
        leads, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(leads)
                become_engine(json.loads(line), ready)
            except SystemExit as end:
                os._exit(end.code if isinstance(end.code, int) else 1)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        os.close(ready)
        os.read(leads, 1)  # its end: who looks for the session's members now finds the leader
        os.close(leads)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
