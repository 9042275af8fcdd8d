"""Edits of a pod that can be undone. Each is applied and written down; undoing takes them back in reverse order.

Lists of named things (containers, volumes, variables) are addressed by name, so that an injected manifest may be edited
by hand and still be un-injected. What was there before an edit is kept in the record. A key without a value (`args:`,
as templates leave it) counts as one that is not there, and is there again after the edit is taken back.

    kind      undone by
    item      removing the element of that name from its list; the list too, where the edit made it
    value     putting the old value back, or removing the key where there was none
    words     removing the words that were appended to a list of words
    swap      putting one word back in the place of another, both known with the word before them
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle_plugins.contract.errors import ConfigError
from ruamel.yaml.scalarstring import ScalarString

from rekindle.inject.scalars import quoted

Place = tuple[str, ...]
"""Keys from the pod's spec downwards; `name=NAME` picks an element of a list."""


@dataclass
class Edits:
    """The edits of one pod spec. `record` is what `undo` needs, as plain JSON."""

    spec: Any
    record: list[dict[str, Any]] = field(default_factory=list)

    def add_item(self, place: Place, item: Mapping[str, Any]) -> None:
        """Puts a named element first in a list. Raises ConfigError where the name is taken."""
        parent = find(self.spec, place[:-1])
        was_null = place[-1] in parent and parent[place[-1]] is None
        is_new = parent.get(place[-1]) is None
        items = _insert(parent, place[-1], []) if is_new else parent[place[-1]]
        if not isinstance(items, MutableSequence):
            raise ConfigError("inject", "/".join(place), "it is no list")
        name = item["name"]
        if any(isinstance(other, Mapping) and other.get("name") == name for other in items):
            hint = "rename it, or take out by hand what an earlier injection left"
            raise ConfigError("inject", "/".join(place), f"the name {name} is taken", hint)
        items.insert(0, quoted(item))
        entry = {"edit": "item", "at": list(place), "name": name, "new": is_new}
        self.record.append({**entry, "null": True} if was_null else entry)

    def set_value(self, place: Place, value: Any) -> None:
        """Sets a key, whatever was there. Nothing happens where it is so already."""
        parent = find(self.spec, place[:-1])
        was_there = place[-1] in parent
        if was_there and parent[place[-1]] == value:
            return
        entry: dict[str, Any] = {"edit": "value", "at": list(place)}
        if was_there:
            entry["old"] = plain(parent[place[-1]])
            parent[place[-1]] = quoted(value)
        else:
            _insert(parent, place[-1], quoted(value))
        self.record.append(entry)

    def remove_value(self, place: Place) -> None:
        """Removes a key. Nothing happens where there is none."""
        parent = find(self.spec, place[:-1])
        if place[-1] in parent:
            self.record.append({"edit": "value", "at": list(place), "old": plain(parent[place[-1]])})
            del parent[place[-1]]

    def append_words(self, place: Place, words: Sequence[str]) -> None:
        """Appends to a list of words, which is made where there is none."""
        parent = find(self.spec, place[:-1])
        was_null = place[-1] in parent and parent[place[-1]] is None
        is_new = parent.get(place[-1]) is None
        existing = _insert(parent, place[-1], []) if is_new else parent[place[-1]]
        if not isinstance(existing, MutableSequence):
            raise ConfigError("inject", "/".join(place), "it is no list")
        last = len(existing) - 1
        existing.extend(quoted(words))
        _move_trailing_comment(existing, last)
        entry = {"edit": "words", "at": list(place), "words": list(words), "new": is_new}
        self.record.append({**entry, "null": True} if was_null else entry)

    def swap_word(self, place: Place, index: int, word: str) -> None:
        """Puts a word in another one's place, in a list of words."""
        words = find(self.spec, place[:-1])[place[-1]]
        if str(words[index]) == word:
            return
        old = str(words[index])
        before = str(words[index - 1]) if index else ""
        _put_word(words, index, word)
        self.record.append({"edit": "swap", "at": list(place), "before": before, "old": old, "word": word})


def undo(spec: Any, record: Sequence[Mapping[str, Any]]) -> None:
    """Takes edits back. Raises ConfigError where the manifest was changed so that this cannot be done exactly."""
    for entry in reversed(record):
        place = tuple(str(step) for step in entry["at"])
        parent = find(spec, place[:-1])
        if entry["edit"] == "item":
            is_empty = _remove_item(parent, place, str(entry["name"]))
            _leave(parent, place[-1], entry, is_empty)
        elif entry["edit"] == "words":
            is_empty = _remove_words(parent, place, list(entry["words"]))
            _leave(parent, place[-1], entry, is_empty)
        elif entry["edit"] == "swap":
            _swap_back(parent, place, str(entry["before"]), str(entry["old"]), str(entry["word"]))
        elif "old" in entry:
            parent[place[-1]] = quoted(entry["old"])
        else:
            parent.pop(place[-1], None)


def find(node: Any, place: Place) -> Any:
    """The mapping at a place. Of several with one name it is the last, which is the one that counts for variables.

    Raises ConfigError where there is none.
    """
    for index, step in enumerate(place):
        if step.startswith("name="):
            items = node if isinstance(node, Sequence) else ()
            named = [item for item in items if isinstance(item, Mapping) and item.get("name") == step[5:]]
            node = named[-1] if named else None
        else:
            node = node.get(step) if isinstance(node, Mapping) else None
        if node is None:
            raise ConfigError("find", "/".join(place[: index + 1]), "it is not there (any more)", "undo by hand")
    return node


def plain(value: Any) -> Any:
    """As JSON has it: no comments, no YAML types."""
    return json.loads(json.dumps(value, default=str))


def _leave(parent: Any, key: str, entry: Mapping[str, Any], is_empty: bool) -> None:
    """What an edit leaves of the list that it made."""
    if not entry["new"] or not is_empty:
        return
    if entry.get("null"):
        parent[key] = None
    else:
        parent.pop(key, None)


def _remove_item(parent: Any, place: Place, name: str) -> bool:
    """Whether none is left."""
    items = parent.get(place[-1]) or []
    kept = [index for index, item in enumerate(items) if isinstance(item, Mapping) and item.get("name") == name]
    for index in reversed(kept):
        del items[index]
    return not items


def _remove_words(parent: Any, place: Place, words: list[str]) -> bool:
    """Whether none is left."""
    existing = parent.get(place[-1])
    for start in range(len(existing or ()) - len(words), -1, -1):
        if list(existing[start : start + len(words)]) == words:
            _move_trailing_comment(existing, start + len(words) - 1, start - 1)
            del existing[start : start + len(words)]
            return not existing
    problem = f"{' '.join(words)} is not there any more as it was added"
    raise ConfigError("uninject", "/".join(place), problem, "undo by hand what is left of it")


def _swap_back(parent: Any, place: Place, before: str, old: str, word: str) -> None:
    words = parent.get(place[-1]) or []
    for index in range(len(words) - 1, -1, -1):
        if str(words[index]) == word and (str(words[index - 1]) if index else "") == before:
            _put_word(words, index, old)
            return
    problem = f"{before} {word}".strip() + " is not there any more as it was put"
    raise ConfigError("uninject", "/".join(place), problem, f"put {old!r:.200} back by hand")


def _put_word(words: MutableSequence[str], index: int, word: str) -> None:
    """Quoted as the one that was there."""
    kind = type(words[index])
    words[index] = kind(word) if issubclass(kind, ScalarString) else quoted(word)


def _insert(parent: MutableMapping[str, Any], key: str, value: Any) -> Any:
    """A new key behind the first one. At the end it would come behind comments that belong to what follows."""
    at = getattr(parent, "insert", None)
    if at is None or key in parent:
        parent[key] = value
    else:
        at(min(1, len(parent)), key, value)
    return parent[key]


def _move_trailing_comment(words: MutableSequence[str], old: int, new: int | None = None) -> None:
    """ruamel.yaml keeps lines that follow a list with the list's last element."""
    comments: Any = getattr(getattr(words, "ca", None), "items", None)
    new = len(words) - 1 if new is None else new
    held = comments.get(old) if comments else None
    if held and held[0] is not None and held[0].value.startswith("\n") and new >= 0:
        comments[new] = comments.pop(old)
