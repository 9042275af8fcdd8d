"""The plugin under examples/ is a third party's: it uses the engine's half of Rekindle, which does not know it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "transformers_engine"
ENGINE = {"torch", "transformers"}
SOURCES = sorted(PLUGIN.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_uses_the_contract_the_client_and_its_engine(path: Path) -> None:
    is_engine = path.parent == PLUGIN
    assert imported(path) <= (ENGINE if is_engine else {"rekindle_plugins", "rekindle_transformers", *ENGINE})


def test_nothing_in_rekindle_knows_it() -> None:
    code = [path for folder in ("sidecar", "plugins") for path in (ROOT / folder).rglob("*.py")]
    assert len(code) > 50
    assert [path for path in code if "rekindle_transformers" in path.read_text()] == []
    assert "transformers" not in (ROOT / "pyproject.toml").read_text().partition("[tool.")[0]
