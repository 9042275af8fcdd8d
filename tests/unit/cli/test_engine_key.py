"""The engine's API key: from a file or the environment, and never a wrong one without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from rekindle.cli.engine_key import EngineKey
from rekindle.config import Config, HttpAddress, ProxyRoute, load
from rekindle_plugins.contract.errors import ConfigError


def test_a_key_is_read_anew_and_the_last_one_stays_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one\n")
    key = EngineKey(path)
    key.check()
    assert key.read() == "one"
    path.write_text("two")
    assert key.read() == "two"
    path.unlink()
    assert key.read() == "two"


def test_without_a_file_it_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REKINDLE_PROXY_API_KEY", raising=False)
    key = EngineKey(None)
    key.check()
    assert key.read() == ""
    monkeypatch.setenv("REKINDLE_PROXY_API_KEY", "mine")
    assert key.read() == "mine"
    assert load({}, {"REKINDLE_PROXY_API_KEY": "mine"}).warnings == ()


@pytest.mark.parametrize("content", [None, b"", b" \n", b"a\nb", "é".encode(), b"\xff", b"x" * 5000])
def test_what_is_no_key_is_refused_with_a_hint(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        EngineKey(path).check()
    assert str(path) in raised.value.subject
    assert raised.value.hint


def test_the_proxys_command_line_has_the_files_name_and_not_the_key(tmp_path: Path) -> None:
    from rekindle.cli.proxy_child import ProxyChild

    path = tmp_path / "key"
    path.write_text("secret")
    route = ProxyRoute(HttpAddress("127.0.0.1", 0), "http://127.0.0.1:1")
    config = Config(tmp_path, tmp_path / "s", proxy=route, proxy_api_key_file=path, proxy_seeds=False, proxy_drain_s=7)
    argv = ProxyChild(config, lambda _: None)._command(3)
    assert argv[argv.index("--api-key-file") + 1] == str(path)
    assert argv[argv.index("--drain-s") + 1] == "7"
    assert "--no-seeds" in argv
    assert "secret" not in " ".join(argv)
