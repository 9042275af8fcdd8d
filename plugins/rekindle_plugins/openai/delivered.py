"""What a client has of one choice of an answer, and what of a fresh engine's answer is new to it.

The text of a choice has channels: `text`, `content`, `reasoning`, the arguments of each tool call. Tokens and channels
advance at different paces (an engine holds text back until a character is whole), so both are kept, and after a
resumption both are compared: what comes again must be what was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle_plugins.contract.dialect import NotResumableError

REPLACEMENT = "\ufffd"
"""What a decoder gives for a character that is not whole yet."""


@dataclass(frozen=True)
class Cut:
    """A place between two tokens, and the length of the main text there, in characters."""

    tokens: int = 0
    text: int = 0


@dataclass
class Delivered:
    """One choice, as the client has it."""

    tokens: list[int] = field(default_factory=list)
    channels: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, Any] = field(default_factory=dict)
    """What an engine makes up anew each time (a tool call's id): the first one stays."""
    has_role: bool = False
    finish: str | None = None
    text_count: int = 0
    certain: Cut = Cut()
    """The last place where the decoder held nothing back for sure."""
    last: Cut = Cut()
    """The end of the last piece of text."""
    likely: Cut = Cut()
    """The end of the piece before it: text follows, so that a wrong guess would be noticed."""

    def add_text(self, channel: str, text: str) -> None:
        self.channels.setdefault(channel, []).append(text)

    def add_main(self, token_ids: Sequence[int], text: str, is_single: bool) -> None:
        """Tokens with the main text that came with them. `is_single`: the engine sent one token for this text."""
        self.tokens += token_ids
        if not text:
            return
        self.text_count += len(text)
        self.likely, self.last = self.last, Cut(len(self.tokens), self.text_count)
        # With several tokens the text may be the first one's, and the last one still held back.
        if is_single and not text.endswith(REPLACEMENT):
            self.certain = self.last

    def best_cut(self) -> Cut:
        """Where a continuation can begin: as late as possible, and at a whole character."""
        return max(self.certain, self.likely, key=lambda cut: cut.tokens)


class Again:
    """The part of a choice that a fresh engine says again: from `cut` to the last thing that was delivered."""

    def __init__(self, seen: Delivered, cut: Cut, main: str | None) -> None:
        """`main`: the channel that the cut's text length is of; None to begin at the start of all channels."""
        self._tokens = seen.tokens[cut.tokens :]
        self._done = 0
        self._channels = {name: "".join(parts) for name, parts in seen.channels.items()}
        if main in self._channels:
            self._channels[main] = self._channels[main][cut.text :]

    @property
    def is_over(self) -> bool:
        return self._done == len(self._tokens) and not any(self._channels.values())

    def new_tokens(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Those that the client has not. Raises NotResumableError when the others are not the ones it has."""
        known = self._tokens[self._done : self._done + len(token_ids)]
        if known != list(token_ids[: len(known)]):
            raise NotResumableError("the fresh engine chose other tokens than the client has")
        self._done += len(known)
        return token_ids[len(known) :]

    def new_text(self, channel: str, text: str) -> str:
        """The part of it that the client has not. Raises NotResumableError likewise."""
        known = self._channels.get(channel, "")
        if not known.startswith(text[: len(known)]):
            raise NotResumableError("the fresh engine wrote another text than the client has")
        self._channels[channel] = known[len(text) :]
        return text[len(known) :]
