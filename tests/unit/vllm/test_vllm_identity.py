"""What a draft model adds to the identity of an engine's pages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rekindle_plugins.contract.errors import IdentityError
from rekindle_plugins.vllm.identity import _speculative


def config(model: str) -> SimpleNamespace:
    draft = SimpleNamespace(model=model, revision="main", seed=3)
    return SimpleNamespace(method="eagle", num_speculative_tokens=2, draft_model_config=draft)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of `org/draft` in the hub's local cache; no other name is there."""
    folder = tmp_path / "draft"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")

    def snapshot_download(name: str, *, revision: str, local_files_only: bool) -> str:
        assert local_files_only
        if (name, revision) != ("org/draft", "main"):
            raise FileNotFoundError(name)
        return str(folder)

    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return folder


def test_a_draft_model_by_its_hub_name_is_known_by_its_weights(cached: Path) -> None:
    before = _speculative(config("org/draft"), "auto")
    assert before == _speculative(config(str(cached)), "auto")
    (cached / "model.pt").write_bytes(b"other weights")
    assert _speculative(config("org/draft"), "auto") != before


def test_a_draft_model_whose_weights_cannot_be_found_makes_no_identity(cached: Path) -> None:
    with pytest.raises(IdentityError, match="org/other"):
        _speculative(config("org/other"), "auto")


def test_no_draft_model_needs_no_weights() -> None:
    ngram = SimpleNamespace(method="ngram", num_speculative_tokens=2, draft_model_config=None)
    assert (_speculative(None, "auto"), _speculative(ngram, "auto")) == ("none", "ngram 2")
    assert _speculative(config("nowhere"), "dummy") == "eagle 2 dummy weights, seed 3"
