"""`python -m trt_engine --port 0 --model DIR …`: the stand-in behind a small HTTP server; `driving` has its dialect."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

from trt_engine import interface
from trt_engine.executor import Executor, Settings
from trt_engine.request import Request


def llm_args(model: str, settings: Settings) -> SimpleNamespace:
    """What `trtllm-serve --config engine.yaml` would set."""
    return SimpleNamespace(
        model=model,
        dtype="float32",
        load_format="auto",
        tensor_parallel_size=settings.ranks,
        pipeline_parallel_size=1,
        max_beam_width=1,
        kv_cache_config=SimpleNamespace(
            enable_block_reuse=True,
            enable_partial_reuse=False,
            host_cache_size=0,
            tokens_per_block=settings.page_tokens,
            use_kv_cache_manager_v2=settings.manager == "v2",
            dtype="auto",
        ),
        scheduler_config=SimpleNamespace(capacity_scheduler_policy="GUARANTEED_NO_EVICT"),
    )


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, executor: Executor) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.executor = executor
        self.ids = itertools.count(1)
        self.requests: dict[int, Request] = {}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer({})
        elif self.path == "/counts":
            outputs = [[len(o.new_requests), len(o.cached_requests)] for o in self.server.executor.outputs]
            self._answer({"calls": self.server.executor.calls, "outputs": outputs})
        else:
            self._answer({str(request.prompt): list(request.tokens) for request in self.server.requests.values()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(
            next(self.server.ids),
            body["prompt"],
            body["max_tokens"],
            body.get("cache_salt"),
            body.get("lora_task_id"),
        )
        self.server.requests[request.request_id] = request
        self.server.executor.incoming.put(request)
        request.ended.wait()
        generated = request.tokens[len(request.prompt) :]
        self._answer({"tokens": generated, "found": request.found_tokens, "loaded": request.loaded_tokens})

    def _answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manager", choices=["v1", "v2"], default="v1")
    parser.add_argument("--overlap", type=int, default=1)
    parser.add_argument("--place", choices=["new", "old"], default="new")
    for name, default in (("pages", 256), ("chunk", 128), ("ranks", 1), ("dummies", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    interface.install(chosen.place)
    from rekindle_plugins.tensorrt_llm import RekindleScheduler, RekindleWorker

    settings = Settings(chosen.manager, bool(chosen.overlap), chosen.pages, chosen.chunk, chosen.ranks, chosen.dummies)
    executor = Executor(settings, llm_args(chosen.model, settings), RekindleScheduler, RekindleWorker)
    server = Server(chosen.port, executor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        executor.run()
    except BaseException:
        logging.exception("the executor ended")
        os._exit(1)  # as an engine's executor does: whoever waits for an answer hears of it


if __name__ == "__main__":
    main()
