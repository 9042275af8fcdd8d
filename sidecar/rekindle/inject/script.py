"""A container's `sh -c "…"`: its commands as words, where that is certain, and the script with some of them changed.

Understood are simple commands, one after the other (`;`, `&&`, line ends), with quotes, comments, continued lines and
`$NAME`. Everything else (pipes, redirections, substitutions, conditions, loops, globs) makes a script one that is not
understood: then nobody edits it. A change is made in the text of one word or behind the last one of a command, so that
all else stays as it was written.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.adapter import SHELLS
from rekindle_plugins.contract.errors import ConfigError

_NAME = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
_NOT_ONE_WORD = re.compile(r"^-|[\s*?\[$]")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_NOT_UNDERSTOOD = frozenset("|<>(){}*?[]!~`")
_NOT_SIMPLE = frozenset(
    {"if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "function", "select"}
) | {"time", "coproc", "eval", "alias", "trap"}
_OURS = ("PYTHONPATH", "REKINDLE_")
"""A script that sets these itself would undo what is set for it."""


@dataclass(frozen=True)
class Word:
    """`text` as the command gets it, variables as they are written; and where it stands in the script."""

    text: str
    start: int
    end: int
    has_variables: bool = False
    """Whether the shell puts values into it: `text` is then not what the command gets."""
    is_variable: bool = False
    """Whether it is a variable and nothing else, without quotes: any number of words, and flags among them."""


@dataclass(frozen=True)
class Script:
    """One command of a script. `key` and `index`: which word of a container's `command` or `args` the script is."""

    key: str
    index: int
    text: str
    words: tuple[Word, ...]

    def with_words(self, new: Sequence[str]) -> str:
        """The script with the command's words changed, and others behind them.

        Raises ConfigError where a word to be changed has variables in it: what it is then is not known here.
        """
        text, at = self.text, self.words[-1].end
        more = "".join(f" {shlex.quote(word)}" for word in new[len(self.words) :])
        text = text[:at] + more + text[at:]
        for word, after in reversed([*zip(self.words, new, strict=False)]):
            if word.text != after and word.has_variables:
                problem = f"{self.text[word.start : word.end]!r:.80} has a variable of the shell's in it"
                raise ConfigError("wire", "the script", problem, "write the value, or the new word by hand: " + after)
            if word.text != after:
                text = text[: word.start] + shlex.quote(after) + text[word.end :]
        return text

    def unknown(self, environment: Mapping[str, str]) -> str:
        """A word that may be flags, as far as can be told: a variable without quotes. "" where there is none.

        `environment`: the container's. A variable of it that the script does not set, and that is one word and no flag,
        is known to be none.
        """
        for word in self.words:
            name = word.text.strip("${}")
            value = "" if re.search(rf"\b{name}=", self.text) else environment.get(name, "")
            if word.is_variable and (_NOT_ONE_WORD.search(value) or not value):
                return word.text
        return ""


def scripts_of(container: Mapping[str, Any]) -> list[Script]:
    """Each command of the container's script; none where it has no script, or one that is not understood."""
    words = [(key, index, str(word)) for key in ("command", "args") for index, word in _listed(container, key)]
    if not words or os.path.basename(words[0][2]) not in SHELLS:
        return []
    flag = next((at for at, (_, _, word) in enumerate(words) if re.fullmatch(r"-[a-zA-Z]*c[a-zA-Z]*", word)), None)
    rest = [] if flag is None else [entry for entry in words[flag + 1 :] if not entry[2].startswith("-")]
    if not rest or any(name in rest[0][2] for name in _OURS):
        return []
    key, index, text = rest[0]
    return [Script(key, index, text, command) for command in _commands(text) or ()]


def _listed(container: Mapping[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    value = container.get(key) or ()
    return enumerate([value] if isinstance(value, str) else value)


def _commands(text: str) -> list[tuple[Word, ...]] | None:
    """Without the assignments before them; None where the script is not understood."""
    reader = _Reader(text)
    try:
        reader.read()
    except _NotUnderstoodError:
        return None
    found = []
    for command in reader.commands:
        while command and _ASSIGNMENT.match(text[command[0].start :]):
            command = command[1:]
        if command and command[0].text in _NOT_SIMPLE:
            return None
        if command:
            found.append(tuple(command))
    return found


class _NotUnderstoodError(Exception):
    """Stays in this module."""


class _Reader:
    """One pass over a script, as POSIX has a shell read it."""

    def __init__(self, text: str) -> None:
        self.commands: list[list[Word]] = [[]]
        self._text = text
        self._at = 0
        self._word: str | None = None
        self._start = 0
        self._has_variables = False

    def read(self) -> None:
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in " \t":
                self._end_word()
                self._at += 1
            elif char in "\n;&":
                self._end_command(char)
            elif char == "#" and self._word is None:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in _NOT_UNDERSTOOD:
                raise _NotUnderstoodError
            elif char == "'":
                end = self._text.find("'", self._at + 1)
                if end < 0:
                    raise _NotUnderstoodError
                self._take(self._text[self._at + 1 : end], end + 1)
            elif char == '"':
                self._quoted()
            elif char == "\\":
                self._escaped("")
            elif char == "$":
                self._variable()
            else:
                self._take(char, self._at + 1)
        self._end_word()

    def _take(self, text: str, then: int) -> None:
        if self._word is None:
            self._word, self._start, self._has_variables = "", self._at, False
        self._word += text
        self._at = then

    def _end_word(self) -> None:
        if self._word is not None:
            is_variable = _NAME.fullmatch(self._text, self._start, self._at) is not None
            self.commands[-1].append(Word(self._word, self._start, self._at, self._has_variables, is_variable))
            self._word = None

    def _end_command(self, char: str) -> None:
        double = self._text[self._at : self._at + 2]
        if double == ";;" or (char == "&" and double != "&&"):
            raise _NotUnderstoodError
        self._end_word()
        self.commands.append([])
        self._at += 2 if char == "&" else 1

    def _quoted(self) -> None:
        self._take("", self._at + 1)
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return
            if char == "`":
                break
            if char == "\\":
                self._escaped('"\\$`')
            elif char == "$":
                self._variable()
            else:
                self._take(char, self._at + 1)
        raise _NotUnderstoodError

    def _escaped(self, only: str) -> None:
        """`only`: what a backslash escapes within double quotes; "" outside of them, where it escapes everything."""
        following = self._text[self._at + 1 : self._at + 2]
        if not following:
            raise _NotUnderstoodError
        if following == "\n":
            self._at += 2
        elif only and following not in only:
            self._take("\\" + following, self._at + 2)
        else:
            self._take(following, self._at + 2)

    def _variable(self) -> None:
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise _NotUnderstoodError
        self._take(match[0], match.end())
        self._has_variables = True
