"""The engine thread: it alone touches the engine, and takes its orders from a queue.

Other threads call `submit`, `abort`, `reset` and `stop`, which only put an order in the queue and return.
Answers go to each request's sink, called on the engine thread; a sink must not block.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from nano_engine.engine import Engine, Output
from nano_engine.request import Finish, Request, RequestError

Sink = Callable[[Output], None]

IDLE_TURN_S = 0.2
"""How often an idle engine takes a turn for the plugin's sake."""

BLOCKED_TURN_S = 0.0002
"""The pause after a turn that could run nothing though requests wait, for a load or for pages."""


class EngineLoop:
    """Runs one engine until `stop`, or until a step raises: then `failure` says why."""

    def __init__(self, engine: Engine, on_end: Callable[[], object] = lambda: None) -> None:
        """`on_end` is called once, on the engine thread, when that thread is about to end."""
        self.engine = engine
        self.failure: BaseException | None = None
        self._on_end = on_end
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._sinks: dict[str, Sink] = {}
        self._stopping = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="nano-engine", daemon=True)

    def start(self) -> None:
        """Start the thread and wait until the plugin is ready. Raises what the plugin's `ready` raised."""
        self._thread.start()
        self._ready.wait()
        if self.failure is not None:
            raise self.failure

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request that `engine.check` has passed; its outputs, to the last, go to `sink`."""
        self._orders.put(lambda: self._submit(request, sink))

    def abort(self, request_id: str) -> None:
        """End a request; harmless if it has ended. Its sink gets a last output with Finish.ABORT."""
        self._orders.put(lambda: self._deliver(self.engine.abort(request_id)))

    def reset(self, on_done: Callable[[], object]) -> None:
        """Drop the prefix cache between two steps, then call `on_done` on the engine thread."""

        def order() -> None:
            self.engine.reset_prefix_cache()
            on_done()

        self._orders.put(order)

    def stop(self) -> None:
        """Abort what runs, close the engine, and wait for the thread's end."""
        self._orders.put(self._stop)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self._ready.is_set()

    def _main(self) -> None:
        try:
            try:
                self.engine.start()
                self._ready.set()
                self._turns()
            finally:
                self.engine.close()
        except BaseException as error:
            self.failure = error
        finally:
            self._ready.set()
            self._on_end()

    def _turns(self) -> None:
        pause_s = 0.0
        while not self._stopping:
            self._obey(pause_s)
            steps = self.engine.step_count
            for output in self.engine.step():
                self._deliver(output)
            if self.engine.step_count != steps:
                pause_s = 0.0
            else:
                pause_s = BLOCKED_TURN_S if self.engine.has_requests else IDLE_TURN_S

    def _obey(self, pause_s: float) -> None:
        """Carry out every order in the queue; wait up to `pause_s` for the first."""
        with contextlib.suppress(queue.Empty):
            (self._orders.get(timeout=pause_s) if pause_s else self._orders.get_nowait())()
            while True:
                self._orders.get_nowait()()

    def _submit(self, request: Request, sink: Sink) -> None:
        self._sinks[request.request_id] = sink
        try:
            self.engine.submit(request)
        except RequestError:
            self._deliver(Output(request.request_id, None, Finish.ABORT, 0))

    def _stop(self) -> None:
        self._stopping = True
        for request_id in list(self._sinks):
            self._deliver(self.engine.abort(request_id))

    def _deliver(self, output: Output | None) -> None:
        if output is None:
            return
        sink = self._sinks.get(output.request_id) if output.finish is None else self._sinks.pop(output.request_id, None)
        if sink is not None:
            sink(output)
