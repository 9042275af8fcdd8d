"""The debug bundle: what is hidden, what fails alone, and what the archive looks like."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tarfile
from pathlib import Path

import pytest
from rekindle.cli import debug_facts as facts
from rekindle.cli.debug_bundle import LARGEST_BYTES, Bundle, Part
from rekindle.cli.redact import HIDDEN, known_flags, our_lines, without_secrets
from rekindle_plugins.contract.errors import ConfigError, UnavailableError

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"api_key={SECRET}",
        f'"s3_secret": "{SECRET}"',
        f'{{"apiKey": "{SECRET}", "x": 1}}',
        f"REKINDLE_STORE_PASSWORD={SECRET} next=1",
        f"https://me:{SECRET}@store.example/bucket",
        f"authorization header Bearer {SECRET}",
        f"AWS_SECRET_ACCESS_KEY: {SECRET}",
        f"--auth-token={SECRET}",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    shown = without_secrets(text)
    assert SECRET not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    [
        '{"tokens_restored": 624, "identity": "10917c9475f8", "store_dir": "/dev/shm/rekindle"}',
        "time=2026-01-01T00:00:00.000Z level=info logger=rekindle.keeper event=listening socket=/run/a.sock",
        'rekindle_pages_rejected_total{backend="nano",reason="checksum"} 1.0',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_json_stays_json_when_a_value_is_hidden() -> None:
    for value in (7, True, None):
        hidden = json.loads(without_secrets(json.dumps({"api_key": value, "port": 1})))
        assert hidden == {"api_key": None if value is None else HIDDEN, "port": 1}
    shown = without_secrets(json.dumps({"api_key": 'a "quoted" \\ one', "list": ["x"], "port": 1}))
    assert json.loads(shown) == {"api_key": HIDDEN, "list": ["x"], "port": 1}


def test_only_the_sidecars_own_lines_are_taken() -> None:
    ours = [
        "time=2026-01-01T00:00:00.000Z level=info logger=rekindle.keeper event=listening",
        '{"time": "x", "level": "info", "logger": "rekindle.engine", "event": "state"}',
    ]
    others = [
        "INFO: Received request: prompt: 'my diary'",
        '{"logger": "vllm", "prompt": "my diary"}',
        '{"logger": "rekindle',
        "[" * 100_000,
        "time=now level=info logger=other event=rekindle",
    ]
    assert our_lines([*others, *ours, "", *others]) == (ours, 2 * len(others))


def test_of_a_command_line_only_our_flags_are_shown() -> None:
    line = ["/usr/bin/python", "-m", "rekindle.cli", "serve", "--run-dir", "/run/x", "--http=:0", "--log-json"]
    shown = known_flags([*line, "--mystery", SECRET, "--no-log-json", "--store-size"])
    assert SECRET not in " ".join(shown)
    assert shown == [
        *(HIDDEN, "serve", "--run-dir", "/run/x", "--http=:0", "--log-json"),
        *(HIDDEN, "--no-log-json", "--store-size"),
    ]


def raising(error: Exception) -> Part:
    def collect() -> str:
        raise error

    return Part(f"{type(error).__name__}.txt", "…", collect)


def test_a_part_that_fails_is_told_of_and_costs_nothing_else(tmp_path: Path) -> None:
    made = Bundle(1_760_000_000.0)
    made.collect(raising(UnavailableError("scrape", "the metrics", f"api_key={SECRET}")))
    made.collect(raising(PermissionError(13, "Permission denied")))
    made.collect(raising(ZeroDivisionError("my diary")))
    made.collect(Part("good.txt", "good", lambda: "é\ud800"))
    made.collect(Part("large.txt", "large", lambda: "x" * LARGEST_BYTES + "end"))
    path = tmp_path / "b.tar.gz"
    assert made.write(path) == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["b.tar.gz"]
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        content = {each.name.partition("/")[2]: archive.extractfile(each).read() for each in members}  # type: ignore[union-attr]
    assert {(each.uid, each.gid, each.uname, each.gname, each.mode) for each in members} == {(0, 0, "", "", 0o600)}
    assert {each.name.partition("/")[0] for each in members} == {"rekindle-debug-20251009-085320"}
    manifest = json.loads(content.pop("manifest.json"))
    assert {each["name"]: each["sha256"] for each in manifest["files"]} == {
        name: hashlib.sha256(text).hexdigest() for name, text in content.items()
    }
    assert len(content["large.txt"]) == LARGEST_BYTES
    assert content["large.txt"].endswith(b"end")
    why = {each["name"]: each["why"] for each in manifest["missing"]}
    assert why["PermissionError.txt"] == "Permission denied"
    assert why["ZeroDivisionError.txt"] == "could not be collected: ZeroDivisionError"
    assert SECRET not in why["UnavailableError.txt"]


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Bundle(0.0).write(tmp_path / "absent" / "b.tar.gz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError):
        Bundle(0.0).write(tmp_path / "folder")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_the_kernel_tells_who_listens_where(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    assert facts.listener_pid(path) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert facts.listener_pid(path) is None
        listener.listen()
        assert facts.listener_pid(path) == os.getpid()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert ("127.0.0.1", server.getsockname()[1]) in facts.listening(os.getpid())


def test_facts_of_this_machine_are_there_and_its_name_is_not(tmp_path: Path) -> None:
    found = facts.machine(os.getpid(), [tmp_path / "not" / "there", Path("/dev/shm")])
    assert found["memory"]["MemTotal"].endswith("kB")
    assert found["mounts"][0]["path"] == str(tmp_path)
    assert found["mounts"][1]["type"] == "tmpfs"
    assert found["mounts"][1]["size_bytes"] > 0
    assert socket.gethostname() not in json.dumps(found)
    assert facts.process(os.getpid())["uid"] == os.getuid()
