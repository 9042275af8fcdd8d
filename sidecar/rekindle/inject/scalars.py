"""Strings of ours as YAML: quoted where somebody could take them for something else.

ruamel.yaml writes YAML 1.2, where `yes` is a string. Others read 1.1, where it is a boolean; what is put into a
manifest, and what is put back, has to mean the same to both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import ScalarString, SingleQuotedScalarString

_RETYPED = re.compile(
    r"""(?ix:
      y | yes | n | no | true | false | on | off | ~ | null | = | << |
      [-+]? 0b[01_]+ | [-+]? 0o?[0-7_]+ | [-+]? 0x[\da-f_]+ |             # integers
      [-+]? \d[\d_]* (?: :[0-5]?\d )* (?: \.[\d_]* )? (?: e[-+]?\d+ )? |  # numbers, also to the base of 60
      [-+]? \.[\d_]+ (?: e[-+]?\d+ )? | [-+]? \.inf | \.nan |
      \d{4}-\d\d?-\d\d? (?: (?: t | \s+ ) \S.* )?                         # dates
    )"""
)


def quoted(value: Any) -> Any:
    """The same as `value`, mappings and lists included, with quotes where a string needs them. Numbers stay numbers."""
    if isinstance(value, Mapping):
        return CommentedMap((quoted(key), quoted(item)) for key, item in value.items())
    if isinstance(value, str):
        needs_quotes = not isinstance(value, ScalarString) and _RETYPED.fullmatch(value)
        return SingleQuotedScalarString(value) if needs_quotes else value
    if isinstance(value, Sequence):
        return [quoted(item) for item in value]
    return value
