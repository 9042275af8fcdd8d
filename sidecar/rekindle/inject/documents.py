"""A stream of YAML documents, read so that comments and order survive, and written so that nothing else changes.

A document that nobody touches is written back byte by byte. One that is changed is written by ruamel.yaml in the
stream's own style of indentation: its comments, order and quotes stay, but not every space. Its line ends stay, a byte
order mark and a directive stay, and what was JSON is JSON, as long as no further document has to be put behind it.
"""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Iterable, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle_plugins.contract.errors import ConfigError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, merge_attrib
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rekindle.inject.scalars import quoted

MAX_STREAM_BYTES = 16 << 20
BYTE_ORDER_MARK = "\ufeff"
_START = re.compile(r"^(?:%[^\n]*\n(?:[ \t\r]*(?:#[^\n]*)?\n)*)*---(?=\s|$)", re.MULTILINE)
"""Where a document starts, directives before its separator included."""
_LIST_UNDER_KEY = re.compile(r"^( *)[\w\"'./-]+:[ \t]*\n(?:[ \t]*(?:#.*)?\n)*( *)- ", re.MULTILINE)


@dataclass
class Document:
    """One document. `text` is what it was read from, its separator included; `node` its content, or None."""

    text: str
    node: Any
    is_changed: bool = False
    is_json: bool = False

    @property
    def line_end(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    @property
    def head(self) -> str:
        """Directives and separator, as they are written; "" where it has none."""
        start = _START.match(self.text)
        return start[0] if start else ""

    def unshare(self) -> None:
        """Writes out what anchors and merge keys share, so that a change in one place stays in that place."""
        _unshare(self.node, set())


@dataclass
class Stream:
    """A file, or standard input. `name` is for messages."""

    name: str
    documents: list[Document]
    _yaml: YAML
    _mark: str = ""
    _appended: list[Document] = field(default_factory=list)

    @staticmethod
    def read(name: str, text: str) -> Stream:
        """Raises ConfigError, with line and column, for what is not YAML. Nothing but plain data is ever made of it."""
        if len(text) > MAX_STREAM_BYTES:
            raise ConfigError("read", name, f"it has more than {MAX_STREAM_BYTES >> 20} MiB", "split it")
        mark = BYTE_ORDER_MARK if text.startswith(BYTE_ORDER_MARK) else ""
        text = text[len(mark) :]
        yaml = _make_yaml(text)
        documents = []
        line = 0
        for part in _split(text):
            documents.append(_document(name, part, line, yaml))
            line += part.count("\n")
        return Stream(name, documents, yaml, mark)

    def write(self) -> str:
        return self._mark + "".join(self._text_of(document) for document in self.documents)

    def append(self, node: Any) -> None:
        """A further document at the end."""
        line_end = self.documents[0].line_end if self.documents else "\n"
        self._appended.append(Document(f"---{line_end}", quoted(node), is_changed=True))
        self.documents.append(self._appended[-1])
        if len(self.documents) > 1 and not self._text_of(self.documents[-2]).endswith("\n"):
            self.documents[-2].text += line_end

    def _text_of(self, document: Document) -> str:
        if not document.is_changed:
            return document.text
        text = _json_text(document) if document.is_json and not self._appended else self._yaml_text(document)
        return text.replace("\n", document.line_end)

    def _yaml_text(self, document: Document) -> str:
        out = io.StringIO()
        head = document.head.replace("\r\n", "\n")
        if head.startswith("%"):
            # Its own version of YAML, which must not become the stream's.
            yaml = _make_yaml(document.text)
            yaml.load(head)
            yaml.dump(document.node, out)
            return head + "\n" + _START.sub("", out.getvalue(), count=1).removeprefix("\n")
        self._yaml.dump(quoted(document.node) if document.is_json else document.node, out)
        text = out.getvalue()
        return text if not head or text.startswith("---") else f"---\n{text}"


def _document(name: str, text: str, line: int, yaml: YAML) -> Document:
    """`line`: how many are before it in its stream."""
    node = _json_of(text)
    if node is not None:
        return Document(text, node, is_json=True)
    if text.startswith("%"):
        yaml = _make_yaml(text)  # a version that a document asks for would be kept for those that follow
    try:
        return Document(text, yaml.load(text.replace("\r\n", "\n")))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {line + mark.line + 1}, column {mark.column + 1}" if mark is not None else "somewhere"
        raise ConfigError("read", name, f"{where}: {error.problem}", "it is not YAML") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError("read", name, f"in the document from line {line + 1}: {error}") from None


def _json_of(text: str) -> Any:
    """The object that the document is in JSON; None where it is something else, or broken."""
    start = _START.match(text)
    body = text[start.end() :] if start else text
    if not body.lstrip().startswith("{"):
        return None
    try:
        return json.loads(body, object_pairs_hook=_mapping, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _mapping(pairs: Sequence[tuple[str, Any]]) -> CommentedMap:
    mapping = CommentedMap(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key is there twice")
    return mapping


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json_text(document: Document) -> str:
    """Indented as it was read, on one line where it was on one."""
    indent = re.search(r"\n([ \t]+)\S", document.text)
    is_tight = indent is None and '": ' not in document.text
    separators = (",", ":") if is_tight else (", ", ": ") if indent is None else (",", ": ")
    text = json.dumps(document.node, indent=indent[1] if indent else None, separators=separators, ensure_ascii=False)
    head = document.head
    return (head + "\n" if head else "") + text + ("\n" if document.text.endswith("\n") else "")


def _unshare(node: Any, seen: set[int]) -> None:
    places: Any = ()
    if isinstance(node, MutableMapping):
        _write_out_merged(node)
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


def _write_out_merged(node: MutableMapping[Any, Any]) -> None:
    """What it has of `<<` becomes its own: a key that is removed would otherwise show through again."""
    if not getattr(node, "merge", None):
        return
    for key, value in list(node.items()):
        node[key] = value
    delattr(node, merge_attrib)


def _split(text: str) -> Iterable[str]:
    """The documents' texts, each with the separator before it."""
    starts = [match.start() for match in _START.finditer(text)]
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
    match = _LIST_UNDER_KEY.search(text.replace("\r\n", "\n"))
    is_indented = match is not None and len(match[2]) > len(match[1])
    yaml.indent(mapping=2, sequence=4 if is_indented else 2, offset=2 if is_indented else 0)
    return yaml
