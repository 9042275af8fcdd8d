from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from nano_driving import generate, prompt
from nano_engine.client import Completion, EngineGone, Refused, complete
from nano_engine.engine import Engine, EngineConfig

EXAMPLES = Path(__file__).parents[3] / "examples"
DEADLINE_S = 10.0


def start(*arguments: str, path: str = "") -> tuple[subprocess.Popen[str], str]:
    """A server process on a port of its own, and its URL."""
    command = [sys.executable, "-m", "nano_engine", "--port", "0", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(EXAMPLES), path]))}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on "), f"the server said {line!r}"
    return process, line.split()[2]


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, address = start()
    yield address
    stop(process)


@pytest.fixture(autouse=True)
def _cold_cache(request: pytest.FixtureRequest) -> None:
    if "url" in request.fixturenames:
        call(request.getfixturevalue("url"), "POST", "/reset_prefix_cache")


def call(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=DEADLINE_S)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    connection.request(method, path, raw)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(content) if is_json else content.decode()


def metric(url: str, name: str) -> int:
    _, text = call(url, "GET", "/metrics")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"nano_{name} "))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def test_a_stream_carries_the_engines_tokens_and_ends_with_usage(url: str) -> None:
    expected = generate(Engine(EngineConfig()), prompt(40), 20)
    first = complete(url, prompt(40), max_tokens=20)
    assert first.token_ids == expected
    assert first.prompt_token_ids == prompt(40)
    assert first.finish_reason == "length"
    assert first.usage["total_tokens"] == 60
    assert first.cached_tokens == 0
    assert complete(url, prompt(40), max_tokens=20).cached_tokens == 32


def test_text_in_is_bytes_and_text_out_can_be_sent_back(url: str) -> None:
    status, answer = call(url, "POST", "/v1/completions", {"prompt": "Grüße", "max_tokens": 30})
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == len("Grüße".encode())
    text = answer["choices"][0]["text"]
    assert len(text) == 30
    following = complete(url, "Grüße" + text)
    assert following.cached_tokens == 32


def test_an_answer_without_streaming_has_tokens_usage_and_reason(url: str) -> None:
    body = {"prompt": prompt(20), "max_tokens": 5, "return_token_ids": True, "temperature": 0, "ignore_eos": True}
    status, answer = call(url, "POST", "/v1/completions", body)
    [choice] = answer["choices"]
    assert status == 200
    assert len(choice["token_ids"]) == 5
    assert choice["prompt_token_ids"] == prompt(20)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_many_clients_at_once_get_what_each_would_get_alone(url: str) -> None:
    prompts = [prompt(30, seed=seed) for seed in range(12)]
    alone = [complete(url, tokens).token_ids for tokens in prompts]
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(lambda tokens: complete(url, tokens).token_ids, prompts))
    assert together == alone


def test_a_client_that_hangs_up_aborts_its_request(url: str) -> None:
    with Completion(url, prompt(30), max_tokens=3000) as completion:
        next(iter(completion))
        assert metric(url, "requests_running") == 1
    eventually(lambda: metric(url, "requests_running") == 0)
    assert metric(url, "pages_used") == 0


def test_one_connection_serves_several_requests(url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=DEADLINE_S)
    for stream in (True, False, True):
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "hello", "stream": stream}))
        assert connection.getresponse().read()
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([1], "must be a JSON object"),
        ({}, "prompt is missing"),
        ({"prompt": ""}, "empty"),
        ({"prompt": ["a", "b"]}, "list of token ids"),
        ({"prompt": [True]}, "list of token ids"),
        ({"prompt": [1, 256]}, "token id 256"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": "a", "max_tokens": "9"}, "max_tokens must be an integer"),
        ({"prompt": "a", "max_tokens": 0}, "at least 1"),
        ({"prompt": "a", "max_tokens": 10**6}, "exceed the context"),
        ({"prompt": "a", "n": 2}, "n is not supported"),
        ({"prompt": "a", "stream": "yes"}, "stream must be true or false"),
        ({"prompt": "a", "stop_token_ids": 5}, "stop_token_ids must be a list"),
        ({"prompt": "a", "cache_salt": 5}, "cache_salt must be a string"),
    ],
)
def test_bad_input_is_refused_with_a_reason(url: str, body: Any, message: str) -> None:
    status, answer = call(url, "POST", "/v1/completions", body)
    assert status == 400
    assert message in answer["error"]["message"]
    assert call(url, "GET", "/health")[0] == 200


def test_a_body_over_the_limit_is_refused_unread(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for length in ("99999999", "9" * 5000):
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
            connection.sendall(f"POST /v1/completions HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_nonsense_on_the_socket_gets_an_error(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for nonsense, status in ((b"\x16\x03\x01\r\n\r\n", b"400"), (b"GET /" + b"a" * 70_000, b"431")):
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
            connection.sendall(nonsense)
            assert connection.recv(64).startswith(b"HTTP/1.1 " + status)


def test_unknown_paths_and_methods_are_told_apart(url: str) -> None:
    assert call(url, "GET", "/nope")[0] == 404
    assert call(url, "GET", "/v1/completions")[0] == 405


def test_the_client_names_what_the_server_refused(url: str) -> None:
    with pytest.raises(Refused, match="status 400: the prompt is empty"):
        complete(url, [])


def test_metrics_count_hits_and_work(url: str) -> None:
    before = {name: metric(url, name) for name in ("prefix_cache_hit_tokens_total", "prompt_tokens_computed_total")}
    complete(url, prompt(40))
    complete(url, prompt(40))
    assert metric(url, "prefix_cache_hit_tokens_total") - before["prefix_cache_hit_tokens_total"] == 32
    assert metric(url, "prompt_tokens_computed_total") - before["prompt_tokens_computed_total"] == 48
    assert call(url, "GET", "/v1/models")[1]["data"][0]["id"] == "nano"


def test_a_killed_engine_breaks_the_stream_with_the_tokens_so_far() -> None:
    process, url = start()
    try:
        with Completion(url, prompt(30), max_tokens=3000) as completion:
            tokens = iter(completion)
            arrived = [next(tokens) for _ in range(3)]
            process.kill()
            with pytest.raises(EngineGone) as broken:
                arrived.extend(tokens)
        assert broken.value.token_ids == completion.token_ids
        assert arrived == completion.token_ids[: len(arrived)]
        with pytest.raises(EngineGone):
            complete(url, prompt(3))
    finally:
        stop(process)


PLUGIN = """
from nano_engine.hooks import NoHooks
import pathlib

class Hooks(NoHooks):
    def __init__(self, args):
        self.seed = args.seed
    def close(self):
        pathlib.Path(__file__).with_suffix(".closed").write_text(str(self.seed))
    def page_complete(self, page_id, key, parent, tokens, request_id):
        raise RuntimeError("the plugin failed")
"""


def test_a_plugin_is_loaded_by_name_and_closed_at_sigterm(tmp_path: Path) -> None:
    (tmp_path / "some_plugin.py").write_text(PLUGIN)
    process, _ = start("--plugin", "some_plugin:Hooks", "--seed", "5", path=str(tmp_path))
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    stop(process)
    assert (tmp_path / "some_plugin.closed").read_text() == "5"


def test_an_engine_whose_thread_fails_hangs_up_and_exits(tmp_path: Path) -> None:
    (tmp_path / "some_plugin.py").write_text(PLUGIN)
    process, url = start("--plugin", "some_plugin:Hooks", path=str(tmp_path))
    with pytest.raises(EngineGone):
        complete(url, prompt(40))
    assert process.wait(DEADLINE_S) == 1
    stop(process)
