"""One request of OpenAI's completions or chat, and its answer, over any number of engines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rekindle_plugins.contract.dialect import (
    Conversation,
    Dialect,
    EngineAnswer,
    EngineRequest,
    NotResumableError,
    Resumption,
    Taken,
    Turn,
    Way,
)
from rekindle_plugins.openai import chunks, transfers
from rekindle_plugins.openai.continuation import chat_choice, continued_fields, continued_usage
from rekindle_plugins.openai.delivered import Again, Cut, Delivered
from rekindle_plugins.openai.fields import Plan, plan
from rekindle_plugins.openai.server_settings import ServerSettings

if TYPE_CHECKING:
    from rekindle_plugins.openai.dialect import OpenAiDialect

NOTHING = Taken(b"")
TOKEN_BYTES = 36
"""Of one token id that is kept: an int, and its place in a list."""
TEXT_BYTES = 60
"""Of one piece of text that is kept, besides its characters."""


@dataclass(frozen=True)
class Wishes:
    """What the client asked for of what we always ask for."""

    stream: bool
    token_ids: bool
    usage: bool


class Planner:
    """Plans when it is asked to, once. `server`: of the engine that the request was sent to first."""

    def __init__(
        self, fields: Mapping[str, Any], is_chat: bool, samples: bool, has_seed: bool, server: ServerSettings | None
    ) -> None:
        self.server = server
        self._fields, self._is_chat, self._samples, self._has_seed = fields, is_chat, samples, has_seed

    @cached_property
    def plan(self) -> Plan:
        return plan(
            self._fields,
            is_chat=self._is_chat,
            samples=self._samples,
            has_seed=self._has_seed,
            server=self.server,
        )


class OpenAiConversation(Conversation):
    """Fed by the proxy, event by event. See `contract.dialect` for what is expected of it."""

    def __init__(
        self,
        dialect: OpenAiDialect,
        path: str,
        fields: Mapping[str, Any],
        sent: EngineRequest,
        planner: Planner,
        wishes: Wishes,
        engine_streams: bool,
    ) -> None:
        self.client_streams = wishes.stream
        self.engine_streams = engine_streams
        self._planner = planner
        self._dialect = dialect
        self._path = path
        self._is_chat = path == dialect.quirks.chat_path
        self._main = "content" if self._is_chat else "text"
        self._fields = fields
        self._sent = sent
        self._wishes = wishes
        self._way = Way.FRESH
        self._closed: dict[Way, str] = {}
        """Ways that have been tried and led nowhere, with the reason."""
        self._is_kept = True
        self._is_outdated = False
        self._believes_aborts = False
        self._request_bytes = _held_by(fields, sent)
        self._has_failed = False
        """The engine has ended it with an error of its own."""
        self._forget()

    def _forget(self) -> None:
        self._envelope: dict[str, Any] = {}
        self._prompt: list[int] | None = None
        self._choices: dict[int, Delivered] = {}
        self._again: dict[int, Again] = {}
        self._base = 0
        """Generated tokens that the engine takes for a part of the prompt."""
        self._usage: dict[str, Any] | None = None
        self._ending: dict[str, Any] = {}
        """Of the choice that finished: what its last chunk said besides."""
        self.token_count = self.place = 0
        self.journal_bytes = self._request_bytes

    @property
    def plan(self) -> Plan:
        return self._planner.plan

    def request(self) -> EngineRequest:
        return self._sent

    def outdate(self) -> None:
        if not self._is_outdated:
            self._is_outdated = True
            self._sent = transfers.without_outdated(self._sent)

    # -- reading -----------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> Taken:
        if data == b"[DONE]":
            if not self._passes_on and not self._is_finished and not self._has_failed:
                raise NotResumableError("the engine ended its answer too early")
            return Taken(chunks.DONE if self._wishes.stream else b"", Turn.COMPLETE)
        try:
            chunk = json.loads(data)
            if not isinstance(chunk, dict):
                raise ValueError("it is no object")
            return self._take_error(chunk, data) if "error" in chunk else self._take_chunk(chunk)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"the engine's answer cannot be read: {error}"
            if not self._passes_on:
                raise NotResumableError(reason) from None
            self._close(reason, *Way)  # the client has what nobody has understood
            return Taken(b"data: %b\n\n" % data)

    @property
    def _passes_on(self) -> bool:
        """What cannot be understood is for the client all the same, who asked this engine, and nobody else, for it."""
        return self._wishes.stream and self._way is Way.FRESH

    def _take_error(self, chunk: dict[str, Any], data: bytes) -> Taken:
        if self._dialect.says_dying(EngineAnswer(500, data)):
            return Taken(b"", Turn.DIED)
        if not self._wishes.stream:
            raise NotResumableError(f"the engine says {data[:200].decode(errors='replace')}")
        self._has_failed = True
        self._close("the engine had ended it with an error", *Way)
        return Taken(chunks.event(chunk))

    def _take_chunk(self, chunk: dict[str, Any]) -> Taken:
        choices = chunk.get("choices") or []
        if not self._believes_aborts and _is_aborted(choices):
            return Taken(b"", Turn.ABORTED)
        if not self._envelope:
            self._envelope = {name: chunk[name] for name in ("id", "object", "created", "model") if name in chunk}
        self._take_prompt(chunk, is_again=bool(self._again))
        kept = [choice for choice in choices if self._take_choice(chunk, choice)]
        self._take_usage(chunk)
        if not self._is_kept:
            self._drop_journal()
        if not self._wishes.stream or (choices and not kept):
            return NOTHING
        chunk["choices"] = kept
        chunk |= self._envelope
        return Taken(chunks.event(chunk))

    def _drop_journal(self) -> None:
        for seen in self._choices.values():
            seen.tokens.clear()
            seen.channels.clear()
        self.journal_bytes = self._request_bytes

    def _take_prompt(self, holder: dict[str, Any], is_again: bool) -> None:
        """The first chunk of an answer has the prompt's ids: in the choice, or beside it."""
        prompt = holder.get("prompt_token_ids")
        if prompt is None:
            return
        if self._prompt is None:
            self._prompt = list(prompt)
            self.journal_bytes += TOKEN_BYTES * len(prompt)
        if is_again or not self._wishes.token_ids:
            self._strip(holder, "prompt_token_ids")

    def _strip(self, holder: dict[str, Any], name: str) -> None:
        if name in holder and self._dialect.quirks.absent_ids_are_null:
            holder[name] = None
        else:
            holder.pop(name, None)

    def _take_choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> bool:
        """Journals it and makes it what the client is to see. Whether there is anything left for the client."""
        if self._is_chat and self._way is Way.CONTINUE:
            chat_choice(choice)
        index = choice.get("index", 0)
        seen = self._choices.setdefault(index, Delivered())
        again = self._again.get(index)
        self._take_prompt(choice, is_again=again is not None)
        ids = chunks.token_ids_of(choice)
        self.place += len(ids)
        fresh = ids if again is None else again.new_tokens(ids)
        said, texts = self._take_texts(choice, seen, again)
        finish = choice.get("finish_reason")
        if again is not None:
            if finish is not None and not again.is_over:
                raise NotResumableError("the fresh engine ended its answer too early")
            chunks.keep_last_logprobs(choice, len(fresh), len(ids))
            if again.is_over and self._way is Way.CONTINUE:
                del self._again[index]
        self._journal(seen, fresh, texts, is_single=len(ids) == 1)
        if not self._wishes.token_ids:
            self._strip(choice, "token_ids")
        elif "token_ids" in choice:
            choice["token_ids"] = list(fresh)
            said = said or bool(fresh)
        if finish is not None and seen.finish is None:
            seen.finish = finish
            self._ending = {name: choice.get(name) for name in ("finish_reason", "stop_reason")}
            self._ending["system_fingerprint"] = chunk.get("system_fingerprint")
            return True
        return said or (again is None and finish is None)

    def _take_texts(
        self, choice: dict[str, Any], seen: Delivered, again: Again | None
    ) -> tuple[bool, list[tuple[str, str]]]:
        """Leaves of the texts what is new. Whether that is anything, and the new texts by channel."""
        texts: list[tuple[str, str]] = []

        def translate(channel: str, text: str) -> str:
            if channel.endswith(".id"):
                is_known = channel in seen.ids
                seen.ids.setdefault(channel, text)
                return "" if is_known and again is not None else text
            if again is not None:
                text = again.new_text(channel, text)
            if text:
                texts.append((channel, text))
            return text

        if not self._is_chat:
            if "text" in choice:
                choice["text"] = translate("text", choice["text"] or "")
            return bool(texts), texts
        delta = choice.get("delta") or {}
        said = chunks.walk_delta(delta, translate)
        if "role" in delta:
            if seen.has_role and again is not None:
                del delta["role"]
            said = said or not seen.has_role
            seen.has_role = True
        return said, texts

    def _journal(self, seen: Delivered, fresh: Sequence[int], texts: list[tuple[str, str]], is_single: bool) -> None:
        main = "".join(text for channel, text in texts if channel == self._main)
        for channel, text in texts:
            seen.add_text(channel, text)
            self.journal_bytes += TEXT_BYTES + len(text)
        seen.add_main(fresh, main, is_single)
        self.token_count += len(fresh)
        self.journal_bytes += TOKEN_BYTES * len(fresh)

    def _take_usage(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        if usage is None:
            return
        if self._way is Way.CONTINUE:
            usage = chunk["usage"] = continued_usage(usage, len(self._prompt or ()), self._base)
        if not chunk.get("choices"):
            self._usage = usage

    @property
    def _is_finished(self) -> bool:
        return bool(self._choices) and all(choice.finish is not None for choice in self._choices.values())

    # -- going on ----------------------------------------------------------------------------------------------

    def believe(self) -> None:
        self._believes_aborts = True

    def judge(self, body: bytes) -> Turn:
        if b'"abort"' not in body:
            return Turn.COMPLETE
        try:
            return Turn.ABORTED if _is_aborted(json.loads(body)["choices"]) else Turn.COMPLETE
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Turn.COMPLETE  # what is no answer of ours is the client's to read

    def resume(self, dialect: Dialect) -> Resumption:
        resumption = self._resume(dialect)
        self.place = self._base
        return resumption

    def _resume(self, dialect: Dialect) -> Resumption:
        self._again.clear()
        self._base = 0
        self._believes_aborts = False
        self.outdate()
        seen_any = any(choice.tokens or choice.channels or choice.finish for choice in self._choices.values())
        if seen_any and self.plan.way is Way.CONTINUE and Way.CONTINUE not in self._closed:
            fields = self._continue(dialect)
            if fields is not None:
                self._way = Way.CONTINUE
                return Resumption(self._way, EngineRequest(self._dialect.quirks.completion_path, chunks.dump(fields)))
        if (not self._wishes.stream or not seen_any) and Way.FRESH not in self._closed:
            has_role = {index for index, choice in self._choices.items() if choice.has_role}
            self._forget_answer(has_role)
            self._way = Way.FRESH
            return Resumption(self._way, self._sent)
        reason = self._closed.get(Way.REPLAY) or (self.plan.reason if self.plan.way is Way.IMPOSSIBLE else "")
        if not self._wishes.stream:
            reason = reason or self._closed[Way.FRESH]
        if reason:
            return Resumption(Way.IMPOSSIBLE, None, reason)
        self._way = Way.REPLAY
        self._again = {index: Again(seen, Cut(), None) for index, seen in self._choices.items()}
        return Resumption(self._way, self._sent, self.plan.reason or self._closed.get(Way.CONTINUE, ""))

    def _forget_answer(self, has_role: set[int]) -> None:
        envelope, prompt = self._envelope, self._prompt
        self._forget()
        if self._wishes.stream and has_role:
            # The client has the beginning, and nothing of the answer: the rest must look as if it were of one piece.
            self._envelope, self._prompt = envelope, prompt
            self._choices = {index: Delivered(has_role=True) for index in has_role}
            self._again = {index: Again(seen, Cut(), None) for index, seen in self._choices.items()}

    def _continue(self, dialect: Dialect) -> dict[str, Any] | None:
        """The fields of a continuation, and the state to read its answer with; None where it cannot begin anywhere."""
        seen = self._choices.get(0)
        if self._prompt is None or seen is None or len(self._choices) != 1:
            return None
        if not getattr(dialect, "continues_chat", False) and self._is_chat:
            return None
        server = self._planner.server
        if server is None or getattr(dialect, "server", None) != server:
            return None  # the fresh engine's server sets something else, or has not told
        if set(seen.channels) - {self._main}:
            self._close("what the model wrote is parsed as a whole", Way.CONTINUE)
            return None
        holds_back = self._dialect.quirks.holds_text_back
        cut = seen.best_cut() if holds_back else Cut(len(seen.tokens), seen.text_count)
        limit = self._dialect.token_limit(self._fields, len(self._prompt), self._is_chat, server)
        if not 0 < cut.tokens < limit:
            return None
        self._base = cut.tokens
        self._again = {0: Again(seen, cut, self._main)}
        tokens = [*self._prompt, *seen.tokens[: cut.tokens]]
        return continued_fields(self._sent, tokens, cut.tokens, limit)

    def refuse(self, reason: str) -> None:
        self._close(reason, self._way)

    def forget(self) -> None:
        assert self._wishes.stream, "the answer of a client that does not stream is all in the journal"
        self._close("it is too long to be kept", *Way)
        self._is_kept = False

    def _close(self, reason: str, *ways: Way) -> None:
        for way in ways:
            self._closed.setdefault(way, reason)

    # -- ending ------------------------------------------------------------------------------------------------

    def remainder(self) -> bytes | None:
        if not self._is_finished or len(self._choices) != 1 or not self._expects_one:
            return None
        knows_usage = self._usage is not None or self.plan.way is Way.CONTINUE
        if not self._wishes.stream:
            return b"" if knows_usage else None
        if not self._wishes.usage or self._usage is not None:
            return chunks.DONE
        if not knows_usage:
            return None
        return chunks.event(self._envelope | {"choices": [], "usage": self._own_usage()}) + chunks.DONE

    @property
    def _expects_one(self) -> bool:
        prompt = self._fields.get("prompt")
        return self._fields.get("n") in (None, 1) and not (
            isinstance(prompt, list) and not all(type(token) is int for token in prompt)
        )

    def _own_usage(self) -> dict[str, Any]:
        prompt = len(self._prompt or ())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.token_count,
            "total_tokens": prompt + self.token_count,
        }

    def whole(self) -> bytes:
        seen = self._choices.get(0, Delivered())
        text = "".join(seen.channels.get(self._main, ()))
        answer = self._dialect.whole(
            envelope=self._envelope,
            text=text,
            ending=self._ending,
            usage=self._usage or self._own_usage(),
            token_ids=seen.tokens if self._wishes.token_ids else None,
            prompt=self._prompt if self._wishes.token_ids else None,
            is_chat=self._is_chat,
        )
        return chunks.dump(answer)


def _is_aborted(choices: Sequence[Any]) -> bool:
    """Nobody but the engine ends a request whose client is still there."""
    return any(choice.get("finish_reason") == "abort" for choice in choices)


def _held_by(fields: Mapping[str, Any], sent: EngineRequest) -> int:
    """About what a request takes: its body as it is sent, and once more as values, of which ids are the larger ones."""
    prompt = fields.get("prompt")
    items = prompt if isinstance(prompt, list) else ()
    ids = sum(len(item) if isinstance(item, list) else 1 for item in items)
    return 2 * len(sent.body) + TOKEN_BYTES * ids
