"""Writing the skeleton under a name of its own."""

from __future__ import annotations

import re
from pathlib import Path

from rekindle_plugins.contract.errors import ConfigError

TEMPLATE = Path(__file__).parent / "template"
WORD, CLASS = "myengine", "MyEngine"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SKIPPED = ("__pycache__",)


def write(name: str, directory: Path) -> Path:
    """Makes the folder `directory/name`, and returns it.

    Raises ConfigError when the name is no plugin's name, or something of that name is there already; a failure on the
    way leaves what was written so far.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("write", f"plugin {name!r:.40}", "its name is no lower-case word", "such as vllm")
    folder = directory / name
    try:
        folder.mkdir(parents=True)
        _copy(TEMPLATE, folder, name)
    except FileExistsError:
        raise ConfigError("write", f"folder {folder}", "it is there already", "choose another name or --dir") from None
    except OSError as error:
        raise ConfigError("write", f"folder {folder}", error.strerror or str(error)) from None
    return folder


def renamed(text: str, name: str) -> str:
    """The template's text for a plugin of this name."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return text.replace(WORD, name).replace(CLASS, class_name)


def _copy(source: Path, target: Path, name: str) -> None:
    for entry in sorted(source.iterdir()):
        if entry.name in _SKIPPED:
            continue
        place = target / renamed(entry.name, name)
        if entry.is_dir():
            place.mkdir()
            _copy(entry, place, name)
        else:
            place.write_text(renamed(entry.read_text(encoding="utf-8"), name), encoding="utf-8")
