"""The official client's streams through the proxy, while a real vLLM is killed: nobody notices more than a pause."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from driving import until
from vllm_driving import ANSWER_S, Launcher, VllmEngine, VllmPod, free_port

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

WAIT_S = 400.0
TOKENS = 300
STEPS = 80
"""Killed after so many steps, each of which gives every answer at most one token. What clients have seen by then says
little: on a busy machine they lag behind, and some begin when others are far on."""
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": TOKENS}
SHAPES: list[dict[str, Any]] = [
    GREEDY,
    GREEDY | {"stream_options": {"include_usage": True}},
    GREEDY | {"max_tokens": None},
    GREEDY | {"extra_body": {"min_tokens": 50, "repetition_penalty": 1.1}},
    GREEDY | {"presence_penalty": 0.7},
    GREEDY | {"logprobs": True, "top_logprobs": 2},
    {"temperature": 0.8, "seed": 11, "max_tokens": TOKENS},
    GREEDY | {"stop": ["never to be found"]},
]
"""Of eight chats. The first four are continued, the others replayed."""
SERVER = {"max_new_tokens": TOKENS + 7, "repetition_penalty": 1.02}
"""What the server sets for all of them: the third one's limit is its only one."""

WORDS = {"type": "array", "items": {"type": "string", "enum": ["yes", "no", "perhaps"]}, "minItems": 50}
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "strict": True,
        "parameters": {"type": "object", "properties": {"words": WORDS}, "required": ["words"]},
    },
}
CALLED = GREEDY | {"tools": [TOOL], "extra_body": {"ignore_eos": False}}
PARSED: list[tuple[str, dict[str, Any]]] = [
    ("", GREEDY),
    ("</think>", GREEDY),
    ("</think>", CALLED | {"tool_choice": "required"}),
    ("</think>", CALLED | {"tool_choice": {"type": "function", "function": {"name": "note"}}}),
]
"""On an engine with both parsers: a thought, an answer whose prompt has closed the thought, and two calls of a tool."""


@functools.cache
def client_of(port: int) -> openai.OpenAI:
    """No retries: an error is an error. One for all: making one takes as long as an engine needs for many tokens."""
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0, timeout=WAIT_S)


class Chat:
    """One streamed chat of the official client, on a thread of its own."""

    def __init__(self, port: int, number: int, salt: str, shape: dict[str, Any] | None = None, said: str = "") -> None:
        self.client = client_of(port)
        content = f"Conversation {number}: " + f"tell me of {number} things. " * 20 + said
        messages = [{"role": "user", "content": content}]
        self.fields: dict[str, Any] = {"model": "m", "messages": messages, **(shape or SHAPES[number])}
        more = {"ignore_eos": True, "return_token_ids": True, "cache_salt": f"{salt} {number}"}
        self.fields["extra_body"] = more | self.fields.get("extra_body", {})
        self.tokens: list[int] = []
        self.text = ""
        self.reasoning = ""
        self.calls: dict[int, dict[str, Any]] = {}
        self.call_ids: dict[int, set[str]] = {}
        self.logprobs = 0
        self.ids: set[tuple[str, int]] = set()
        self.roles: list[str] = []
        self.finish = ""
        self.usage: Any = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for chunk in self.client.chat.completions.create(stream=True, **self.fields):
                self.ids.add((chunk.id, chunk.created))
                self.usage = chunk.usage or self.usage
                for choice in chunk.choices:
                    self.text += choice.delta.content or ""
                    self.reasoning += getattr(choice.delta, "reasoning", None) or ""
                    for part in choice.delta.tool_calls or ():
                        call = self.calls.setdefault(part.index, {"name": "", "arguments": ""})
                        call["name"] += part.function.name or ""
                        call["arguments"] += part.function.arguments or ""
                        self.call_ids.setdefault(part.index, set()).update({part.id} - {None, ""})
                    self.tokens += getattr(choice, "token_ids", None) or ()
                    self.roles += [choice.delta.role] if choice.delta.role else []
                    self.logprobs += len(choice.logprobs.content or ()) if choice.logprobs else 0
                    self.finish = choice.finish_reason or self.finish
        except Exception as error:
            self.error = error

    def finished(self) -> dict[str, Any]:
        """What the client saw of it. AssertionError for any error."""
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        assert self.error is None, repr(self.error)
        assert len(self.ids) == 1
        assert all(len(ids) == 1 for ids in self.call_ids.values())
        counts = (self.usage.prompt_tokens, self.usage.completion_tokens) if self.usage else None
        return {
            "tokens": self.tokens,
            "text": self.text,
            "reasoning": self.reasoning,
            "calls": self.calls,
            "logprobs": self.logprobs,
            "roles": self.roles,
            "finish": self.finish,
            "usage": counts,
        }


def _killed_in_the_middle(
    engine: VllmEngine, pod: VllmPod, port: int, begin: Callable[[int], Chat], count: int
) -> list[Chat]:
    """So many chats, whose engine has just been killed: the first of them has begun, and none has come to its end."""
    client_of(port).models.list()
    before = pod.sidecar.engine().steps
    chats = [begin(0)]
    until("its first token", lambda: chats[0].tokens or chats[0].error, ANSWER_S)
    chats += [begin(number) for number in range(1, count)]
    until("some steps", lambda: pod.sidecar.engine().steps - before >= STEPS, ANSWER_S)
    engine.freeze()
    assert pod.sidecar.engine().steps - before < TOKENS, "it was to be killed in the middle"
    engine.kill()
    return chats


@pytest.fixture
def proxied(launcher: Launcher, llama: Path) -> Iterator[tuple[VllmEngine, int, VllmPod]]:
    """An engine that is yet to be started, and the proxy's port."""
    port, engine_port = free_port(), free_port()
    with VllmPod(launcher, proxy=f"127.0.0.1:{port}=http://127.0.0.1:{engine_port}", proxy_wait="10m") as pod:
        pod.sidecar.start()
        engine = pod.engine(llama, override_generation_config=SERVER)
        engine.fixed_port = engine_port
        yield engine, port, pod
        print({name: text[-6000:] for name, text in pod.logs().items() if "sidecar" in name}["sidecar.log"])


def test_chats_of_the_official_client_live_through_a_kill_and_another_one_during_the_recovery(
    proxied: tuple[VllmEngine, int, VllmPod],
) -> None:
    engine, port, pod = proxied
    engine.start()
    numbers = range(len(SHAPES))
    references = [Chat(engine.port, number, "reference") for number in numbers]
    expected = [reference.finished() for reference in references]
    assert [len(seen["tokens"]) for seen in expected] == [TOKENS, TOKENS, TOKENS + 7, *[TOKENS] * 5]
    plain: dict[str, Any] = {"model": "m", "prompt": [5, 6, 7], "temperature": 0, "max_tokens": TOKENS}
    direct = openai.OpenAI(base_url=f"http://127.0.0.1:{engine.port}/v1", api_key="-")
    through = client_of(port)
    message = {"model": "m", "messages": [{"role": "user", "content": "Well?"}], **GREEDY}
    wholes = [direct.completions.create(**plain), direct.chat.completions.create(**message)]

    answers: list[Any] = [None, None]

    def ask_whole() -> None:
        answers[0] = through.completions.create(**plain)
        answers[1] = through.chat.completions.create(**message)

    asking = threading.Thread(target=ask_whole, daemon=True)

    def begin(number: int) -> Chat:
        if number == 1:
            asking.start()
        return Chat(port, number, "proxy")

    chats = _killed_in_the_middle(engine, pod, port, begin, len(SHAPES))
    seen = [len(chat.tokens) for chat in chats]
    engine.start()
    until("an answer to go on", lambda: "way=" in pod.sidecar.output(), ANSWER_S)
    engine.kill()
    engine.start()
    assert [chat.finished() for chat in chats] == expected
    asking.join(WAIT_S)
    for answer, want in zip(answers, wholes, strict=True):
        assert answer.choices == want.choices
        assert set(answer.model_dump()) == set(want.model_dump())
        assert answer.usage.completion_tokens == want.usage.completion_tokens
    log = pod.sidecar.output()
    assert log.count("way=continue") >= sum(count > 0 for count in seen[:4])
    assert log.count("way=replay") >= sum(count > 0 for count in seen[4:])
    assert "way=impossible" not in log


def test_thoughts_and_tool_calls_are_replayed_by_an_engine_that_parses_them(
    launcher: Launcher, models: Callable[..., Path]
) -> None:
    port, engine_port = free_port(), free_port()
    with VllmPod(launcher, proxy=f"127.0.0.1:{port}=http://127.0.0.1:{engine_port}", proxy_wait="10m") as pod:
        pod.sidecar.start()
        engine = pod.engine(
            models("--thinks"), enable_auto_tool_choice=True, tool_call_parser="hermes", reasoning_parser="deepseek_r1"
        )
        engine.fixed_port = engine_port
        engine.start()
        references = [
            Chat(engine.port, number, "reference", shape, said) for number, (said, shape) in enumerate(PARSED)
        ]
        expected = [reference.finished() for reference in references]
        thought, plain, *called = expected
        assert thought["reasoning"]
        assert plain["text"]
        for seen in called:
            assert seen["calls"][0]["name"] == "note"
            assert seen["calls"][0]["arguments"].startswith("{")

        def begin(number: int) -> Chat:
            said, shape = PARSED[number]
            return Chat(port, number, "proxy", shape, said)

        # The calls end where their grammar does; the thought, which is the first, goes on to the limit.
        chats = _killed_in_the_middle(engine, pod, port, begin, len(PARSED))
        engine.start()
        assert [chat.finished() for chat in chats] == expected
        assert pod.sidecar.output().count("way=replay") >= 1
        assert "way=impossible" not in pod.sidecar.output()
