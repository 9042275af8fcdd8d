"""A stream of YAML documents, read so that comments and order survive, and written so that nothing else changes.

A document that nobody touches is written back byte by byte. One that is changed is written by ruamel.yaml in the
stream's own style of indentation: its comments, order and quotes stay, but not every space.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterable, MutableMapping, MutableSequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import ConfigError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

MAX_STREAM_BYTES = 16 << 20
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_LIST_UNDER_KEY = re.compile(r"^( *)[\w\"'./-]+:[ \t]*\n(?:[ \t]*(?:#.*)?\n)*( *)- ", re.MULTILINE)


@dataclass
class Document:
    """One document. `text` is what it was read from, its separator included; `node` its content, or None."""

    text: str
    node: Any
    is_changed: bool = False

    def unshare(self) -> None:
        """Writes out what anchors share, so that a change in one place stays in that place."""
        _unshare(self.node, set())


@dataclass
class Stream:
    """A file, or standard input. `name` is for messages."""

    name: str
    documents: list[Document]
    _yaml: YAML

    @staticmethod
    def read(name: str, text: str) -> Stream:
        """Raises ConfigError, with line and column, for what is not YAML. Nothing but plain data is ever made of it."""
        if len(text) > MAX_STREAM_BYTES:
            raise ConfigError("read", name, f"it has more than {MAX_STREAM_BYTES >> 20} MiB", "split it")
        yaml = _make_yaml(text)
        documents = []
        line = 0
        for part in _split(text):
            try:
                node = yaml.load(part)
            except MarkedYAMLError as error:
                mark = error.problem_mark or error.context_mark
                where = f"line {line + mark.line + 1}, column {mark.column + 1}" if mark is not None else "somewhere"
                raise ConfigError("read", name, f"{where}: {error.problem}", "it is not YAML") from None
            except (YAMLError, ValueError, RecursionError) as error:
                raise ConfigError("read", name, f"in the document from line {line + 1}: {error}") from None
            documents.append(Document(part, node))
            line += part.count("\n")
        return Stream(name, documents, yaml)

    def write(self) -> str:
        return "".join(self._text_of(document) for document in self.documents)

    def append(self, node: Any) -> None:
        """A further document at the end."""
        if self.documents and not self._text_of(self.documents[-1]).endswith("\n"):
            self.documents[-1].text += "\n"
        self.documents.append(Document("---\n", node, is_changed=True))

    def _text_of(self, document: Document) -> str:
        if not document.is_changed:
            return document.text
        start = _SEPARATOR.match(document.text)
        out = io.StringIO()
        self._yaml.dump(document.node, out)
        text = out.getvalue()
        return text if start is None or text.startswith("---") else f"---\n{text}"


def _unshare(node: Any, seen: set[int]) -> None:
    places: Any = ()
    if isinstance(node, MutableMapping):
        places = list(node.items())
    elif isinstance(node, MutableSequence):
        places = list(enumerate(node))
    for key, value in places:
        if not isinstance(value, MutableMapping | MutableSequence):
            continue
        if id(value) in seen:
            value = copy.deepcopy(value)
            getattr(value, "yaml_set_anchor", lambda _: None)(None)
            node[key] = value
        seen.add(id(value))
        _unshare(value, seen)


def _split(text: str) -> Iterable[str]:
    """The documents' texts, each with the separator before it."""
    starts = [match.start() for match in _SEPARATOR.finditer(text)]
    if not starts or text[: starts[0]].strip():
        starts.insert(0, 0)
    else:
        starts[0] = 0  # comments before the first separator stay with the first document
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield text[start:end]


def _make_yaml(text: str) -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 1 << 20  # long commands stay on their line
    match = _LIST_UNDER_KEY.search(text)
    is_indented = match is not None and len(match[2]) > len(match[1])
    yaml.indent(mapping=2, sequence=4 if is_indented else 2, offset=2 if is_indented else 0)
    return yaml
