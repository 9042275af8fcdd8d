"""A GPU's stream: work is put on it and done in order by a thread, while the host goes on."""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from cuda_stub.memory import Device


class Stream:
    """`cuda_stream` is the driver stand-in's handle, for copies: they come behind everything that is on the stream."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], object], Future[object]]] = queue.SimpleQueue()
        handle = ctypes.c_void_p()
        Device().call("cuStreamCreate", ctypes.byref(handle), 1)
        self._handle = int(handle.value or 0)
        threading.Thread(target=self._run, name="gpu", daemon=True).start()

    def put(self, work: Callable[[], object]) -> Future[object]:
        done: Future[object] = Future()
        self._work.put((work, done))
        return done

    @property
    def cuda_stream(self) -> int:
        self.put(lambda: None).result()
        return self._handle

    def _run(self) -> None:
        while True:
            work, done = self._work.get()
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)
