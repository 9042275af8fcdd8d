"""`rekindle debug bundle` of a real sidecar: all that helps is there, and nothing of what users said."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from driving import Pod
from driving.reference import prompt

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
DIARY = "Dear diary, nobody may ever read about the purple elephant in my bathtub. "


def bundle(pod: Pod, *flags: str, **environ: str) -> tuple[dict[str, str], dict[str, str], bytes]:
    """(files by name, reasons of the missing by name, the whole archive unpacked)."""
    path = pod.directory / "bundle.tar.gz"
    argv = [sys.executable, "-m", "rekindle.cli", "debug", "bundle", "-o", str(path)]
    argv += ["--run-dir", str(pod.sidecar.run_dir), *flags]
    run = subprocess.run(argv, env=CLEAN | environ, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert f"wrote {path}" in run.stderr
    with tarfile.open(path) as archive:
        files = {
            member.name.partition("/")[2]: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }
    missing = {each["name"]: each["why"] for each in json.loads(files["manifest.json"])["missing"]}
    for name in missing:
        assert f"missing: {name}:" in run.stderr
    return files, missing, gzip.decompress(path.read_bytes())


def traces(content: bytes, tokens: Sequence[int]) -> list[str]:
    """Ways in which some tokens in a row, or the text that they are, occur in a bundle."""
    found = []
    for start in range(0, len(tokens) - 12, 3):
        some, text = tokens[start : start + 6], bytes(tokens[start : start + 12])  # six letters alone are no trace yet
        packed = struct.pack("<6I", *some)
        for what, form in (
            ("with commas", ",".join(map(str, some)).encode()),
            ("in a list", ", ".join(map(str, some)).encode()),
            ("with spaces", " ".join(map(str, some)).encode()),
            ("on lines", "\n".join(map(str, some)).encode()),
            ("as they are stored", packed),
            ("in hex", packed.hex().encode()),
            ("as text", text),
            ("as text in hex", text.hex().encode()),
        ):
            if form in content:
                found.append(f"{what}, at {start}")
    return found


def test_a_bundle_has_all_that_a_report_needs(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(http=":0", log_level="debug")
    pod.sidecar.start()
    engine = pod.engine()
    engine.ask(prompt(300))
    engine.restart()
    pod.sidecar.engine()
    files, missing, _ = bundle(pod, REKINDLE_STORE_DIR=str(pod.store_dir), REKINDLE_API_KEY="hunter2hunter2")
    assert missing == {}
    assert set(files) == {
        *("manifest.json", "versions.json", "settings.json", "status.json", "metrics.txt", "recoveries/1.json"),
        *("log.txt", "plugins.json", "sidecar.json", "machine.json", "store.json"),
    }
    assert json.loads(files["status.json"])["last_recovery"] == json.loads(files["recoveries/1.json"])
    assert "rekindle_pages_checkpointed_total" in files["metrics.txt"]
    assert "event=engine_lost" in files["log.txt"]
    assert {each["name"] for each in json.loads(files["plugins.json"])} >= {"nano", "vllm"}
    process = json.loads(files["sidecar.json"])
    assert process["pid"] == pod.sidecar.pid
    assert process["flags"][-2:] == ["--log-level", "debug"]
    assert process["copiers"] == 1
    settings = json.loads(files["settings.json"])
    assert settings["settings"]["store_dir"] == str(pod.store_dir)
    assert settings["other_environment_names"] == ["REKINDLE_API_KEY"]
    assert "hunter2" not in "".join(files.values())
    arenas = [each for each in json.loads(files["store.json"])["files"] if each["name"].endswith(".arena")]
    assert [each["bytes"] > 0 for each in arenas] == [True]


def test_no_token_and_no_text_of_a_user_is_in_a_bundle(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(http=":0", log_level="debug")
    pod.sidecar.start()
    engine = pod.engine()
    tokens = list((DIARY * 4).encode())
    answers = [engine.ask(tokens, 64).token_ids]
    engine.restart()
    answers.append(engine.ask(tokens, 64).token_ids)
    pod.sidecar.when_idle()
    # As under `rekindle run`: the engine writes to the same file, and logs what it was asked.
    with pod.sidecar.log.open("a") as log:
        log.write(f"INFO received a request: {DIARY!r}, ids {tokens}\n")
        log.write(json.dumps({"logger": "engine", "prompt": DIARY}) + "\n")
    files, missing, whole = bundle(pod, REKINDLE_STORE_DIR=str(pod.store_dir))
    assert missing == {}
    assert "2 lines that are not the sidecar's were left out" in files["log.txt"]
    for said in (tokens, *answers):
        assert traces(whole, said) == []
    assert b"purple elephant" not in whole
    told = f"ids {tokens}".encode() + struct.pack(f"<{len(tokens)}I", *tokens) + DIARY.encode()
    assert len(traces(told, tokens)) > 100, "such traces would be found"


def test_without_a_sidecar_a_bundle_says_what_is_missing(pod: Pod) -> None:
    engine = pod.engine()
    engine.ask(prompt(300))
    pod.sidecar.when_idle()
    engine.kill()
    pod.sidecar.when_released()
    pod.sidecar.kill()
    log = ("--log", str(pod.sidecar.log))
    files, missing, _ = bundle(pod, *log, REKINDLE_STORE_DIR=str(pod.store_dir), REKINDLE_HTTP="off")
    assert set(missing) == {"status.json", "metrics.txt", "sidecar.json"}
    assert "nobody" in missing["sidecar.json"]
    assert json.loads(files["recoveries/1.json"])["died_instance"]
    assert "event=engine_lost" in files["log.txt"]
    assert "machine.json" in files


def test_broken_settings_are_told_and_the_rest_is_there(pod: Pod) -> None:
    files, missing, _ = bundle(pod, "--socket", str(pod.sidecar.run_dir / "admin.sock"), REKINDLE_STORE_SIZE="lots")
    assert "'lots' is not a size" in missing["settings.json"]
    assert "status.json" in files
    assert Path(pod.directory, "bundle.tar.gz").stat().st_mode & 0o777 == 0o600
