"""Settings: which source wins, what each accepts, and every refusal with its hint."""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from rekindle.config import (
    SETTINGS,
    Config,
    HttpAddress,
    load,
    make_run_dir,
    parse_bandwidth,
    parse_duration,
    parse_http,
    parse_proxy,
    parse_size,
)
from rekindle_plugins.contract.errors import ConfigError


def a_file(folder: Path, text: str) -> Path:
    path = folder / "rekindle.toml"
    path.write_text(text)
    return path


def test_defaults_stand_where_nothing_is_set() -> None:
    config, warnings = load({}, {})
    assert config == Config(run_dir=Path("/run/rekindle"), store_dir=Path(f"/dev/shm/rekindle-{os.geteuid()}"))
    assert config.store_size_bytes == 2 << 30
    assert config.http == ("127.0.0.1", 9470)
    assert config.allow_uids == {os.geteuid()}
    assert warnings == ()


def test_run_dir_defaults_to_the_users_runtime_folder() -> None:
    assert load({}, {"XDG_RUNTIME_DIR": "/run/user/7"}).config.run_dir == Path("/run/user/7/rekindle")
    assert load({}, {"XDG_RUNTIME_DIR": "relative"}).config.run_dir == Path("/run/rekindle")


def test_flags_come_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    file = a_file(tmp_path, 'store_size = "1GiB"\nrestore_budget = 1\nsalvage_budget = "1s"\n')
    environ = {"REKINDLE_STORE_SIZE": "2GiB", "REKINDLE_RESTORE_BUDGET": "2s"}
    config = load({"store_size": "3GiB", "salvage_budget": None}, environ, file).config
    assert config.store_size_bytes == 3 << 30
    assert config.restore_budget_s == 2.0
    assert config.salvage_budget_s == 1.0
    assert config.fill_timeout_s == 5.0


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = a_file(tmp_path, "allow_uids = [0, 1000]\nlog_json = true\n")
    config = load({}, {"REKINDLE_CONFIG": str(file)}).config
    assert config.allow_uids == {0, 1000}
    assert config.log_json is True


def test_an_empty_variable_is_not_set() -> None:
    assert load({}, {"REKINDLE_STORE_SIZE": ""}).config.store_size_bytes == 2 << 30


def test_every_field_of_the_config_can_be_set() -> None:
    assert {setting.field for setting in SETTINGS} == set(Config.__dataclass_fields__)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("512MiB", 512 << 20),
        ("8Gi", 8 << 30),
        ("1048576", 1 << 20),
        (1 << 20, 1 << 20),
        ("1.5 GiB", 3 << 29),
        ("2GB", 2 * 10**9),
        ("128k", 128_000),
    ],
)
def test_sizes_are_read_in_the_usual_spellings(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "bandwidth"), [("4GB", 4 * 10**9), ("4GB/s", 4 * 10**9), (0, 0), ("0", 0), ("64MiB", 64 << 20)]
)
def test_bandwidths_are_read_in_the_usual_spellings(text: object, bandwidth: int) -> None:
    assert parse_bandwidth(text) == bandwidth


@pytest.mark.parametrize("text", ["63MiB", "fast", "", "-1", True])
def test_a_bandwidth_that_would_starve_checkpoints_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="at least 64MiB"):
        parse_bandwidth(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10s", 10), ("10", 10), (10, 10), (0.5, 0.5), ("2m", 120)]
)
def test_durations_are_read_in_the_usual_spellings(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:80", HttpAddress("0.0.0.0", 80)),
        (":0", HttpAddress("127.0.0.1", 0)),
        ("[::1]:9470", HttpAddress("::1", 9470)),
        ("localhost:1", HttpAddress("localhost", 1)),
        ("off", None),
        (False, None),
    ],
)
def test_http_addresses_are_read(text: object, address: HttpAddress | None) -> None:
    assert parse_http(text) == address


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("store_size", "lots", "is not a size"),
        ("store_size", True, "is not a size"),
        ("store_size", "1", "is not between"),
        ("store_size", "-1GiB", "is not a size"),
        ("http", "9470", "is not host:port"),
        ("http", "host:99999", "is not host:port"),
        ("restore_budget", "soon", "is not a time"),
        ("restore_budget", "-1s", "is not a time"),
        ("restore_budget", "nan", "is not a time"),
        ("salvage_budget", "90m", "longer than an hour"),
        ("allow_uids", "root", "is not a list of user ids"),
        ("allow_uids", [True], "is not a list of user ids"),
        ("log_level", "loud", "is not one of"),
        ("log_json", "maybe", "is not true or false"),
        ("run_dir", 7, "is not a path"),
    ],
)
def test_a_malformed_value_is_refused_with_its_source_and_a_hint(name: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load({name: value}, {})
    flag = "--" + name.replace("_", "-")
    assert caught.value.subject == f"flag {flag}"
    assert flag in caught.value.hint


def test_the_source_of_a_bad_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment REKINDLE_STORE_SIZE: 'x'"):
        load({}, {"REKINDLE_STORE_SIZE": "x"})
    with pytest.raises(ConfigError, match=r"rekindle\.toml, key http"):
        load({}, {}, a_file(tmp_path, "http = 1"))


def test_an_unknown_key_in_the_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'store-sise'") as caught:
        load({}, {}, a_file(tmp_path, 'store-sise = "1GiB"'))
    assert caught.value.hint == "did you mean store_size?"


def test_an_unknown_key_that_resembles_nothing_gets_the_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {}, a_file(tmp_path, "zzzzzzzz = 1"))
    assert caught.value.hint.startswith("known: allow_uids, ")


@pytest.mark.parametrize("text", ["store_size = ", "\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rekindle.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="it is not TOML"):
        load({}, {}, file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load({}, {}, tmp_path / "absent.toml")


def test_python_without_a_toml_reader_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ConfigError, match="cannot read TOML") as caught:
        load({}, {}, a_file(tmp_path, "log_json = true"))
    assert "tomli" in caught.value.hint


def test_an_unknown_variable_is_warned_about_and_ours_and_kubernetes_are_not() -> None:
    environ = {
        "REKINDLE_STORE_SZE": "1",
        "REKINDLE_SOCKET": "/x",
        "REKINDLE_SERVICE_HOST": "10.0.0.1",
        "REKINDLE_PORT_9470_TCP": "tcp://10.0.0.1:9470",
        "REKINDLE_METRICS_SERVICE_PORT": "9470",
    }
    assert load({}, environ).warnings == (
        "environment REKINDLE_STORE_SZE is not a setting; did you mean REKINDLE_STORE_SIZE?",
    )


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is run_dir too"):
        load({"run_dir": str(tmp_path), "store_dir": str(tmp_path)}, {})
    with pytest.raises(ConfigError, match="leaves no time"):
        load({"copier_timeout": "0"}, {})


def test_a_run_dir_too_long_for_a_socket_is_refused() -> None:
    assert load({"run_dir": "/" + "x" * 94}, {}).config.attach_socket
    with pytest.raises(ConfigError, match="108 bytes long, Linux takes 107"):
        load({"run_dir": "/" + "x" * 95}, {})


def test_the_run_dir_is_made_private(tmp_path: Path) -> None:
    config = Config(run_dir=tmp_path / "a" / "b", store_dir=tmp_path)
    assert make_run_dir(config) == ()
    assert stat.S_IMODE(config.run_dir.stat().st_mode) == 0o700
    config.run_dir.chmod(0o755)
    assert make_run_dir(config) == ()
    assert stat.S_IMODE(config.run_dir.stat().st_mode) == 0o700


def test_a_run_dir_that_others_must_reach_lets_them_through_and_no_more(tmp_path: Path) -> None:
    config = Config(run_dir=tmp_path / "a", store_dir=tmp_path, allow_uids=frozenset({os.geteuid(), 1234}))
    config.run_dir.mkdir()
    config.run_dir.chmod(0o777)
    make_run_dir(config)
    assert stat.S_IMODE(config.run_dir.stat().st_mode) == 0o711


def test_a_run_dir_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 7)
    if me == 0:  # a root-owned folder is a pod's shared volume: taken, with a word where others may write
        tmp_path.chmod(0o777)
        assert "others may write" in make_run_dir(Config(run_dir=tmp_path, store_dir=tmp_path))[0]
        os.chown(tmp_path, 4321, -1)
    with pytest.raises(ConfigError, match="it belongs to user"):
        make_run_dir(Config(run_dir=tmp_path, store_dir=tmp_path))


def test_a_run_dir_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory") as caught:
        make_run_dir(Config(run_dir=tmp_path / "file" / "x", store_dir=tmp_path))
    assert "--run-dir" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:8001=http://127.0.0.1:8000", (("0.0.0.0", 8001), "http://127.0.0.1:8000")),
        (":8001=http://engine:8000/", (("127.0.0.1", 8001), "http://engine:8000")),
        ("[::1]:0=http://[::1]:8000", (("::1", 0), "http://[::1]:8000")),
        ("a:1=http://b", (("a", 1), "http://b")),
        ("off", None),
    ],
)
def test_a_proxy_is_where_to_listen_and_the_engine_behind(text: str, expected: object) -> None:
    assert parse_proxy(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8001",
        "http://a:1",
        ":8001=",
        ":8001=https://a",
        ":8001=http://a/v1",
        ":8001=http://u@a",
        "off=http://a:1",
        ":8001=http://a:99999",
    ],
)
def test_a_proxy_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--proxy: Stream proxy"):
        load({"proxy": text or "x"}, {})
