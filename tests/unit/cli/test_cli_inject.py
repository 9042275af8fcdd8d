"""`rekindle inject`, `uninject`, `diff` and `stage` as a user meets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  name: p
spec:
  containers:
  - name: engine
    image: i
    command: [vllm, serve, m]
"""


def rekindle(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rekindle.cli", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def test_a_pipe_there_and_back_again() -> None:
    done = rekindle("inject", given=MANIFEST)
    assert done.returncode == 0, done.stderr
    assert "Pod p: injected" in done.stderr
    assert "restartPolicy: Always" in done.stdout
    back = rekindle("uninject", given=done.stdout)
    assert back.stdout == MANIFEST
    assert "Pod p: uninjected" in back.stderr


def test_the_proxy_is_a_flag_away() -> None:
    done = rekindle("inject", "--proxy", "--engine-port", "9900", given=MANIFEST)
    assert done.returncode == 0, done.stderr
    assert "value: 0.0.0.0:8000=http://127.0.0.1:9900" in done.stdout
    assert "port 8000 is the stream proxy's; the engine moves to 9900" in done.stderr
    assert rekindle("uninject", given=done.stdout).stdout == MANIFEST
    shown = rekindle("diff", "--proxy", given=MANIFEST)
    assert "value: 0.0.0.0:8000=http://127.0.0.1:9471" in shown.stdout


def test_diff_shows_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(MANIFEST)
    done = rekindle("diff", "-f", str(file))
    assert done.returncode == 0
    assert "+  initContainers:" in done.stdout
    assert file.read_text() == MANIFEST


def test_a_folder_is_one_stream_in_a_file(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "notes.txt"):
        (tmp_path / name).write_text(MANIFEST)
    output = tmp_path / "out"
    done = rekindle("inject", "-f", str(tmp_path), "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert output.read_text().count("kind: Pod") == 2
    assert rekindle("uninject", "-f", str(output)).stdout == MANIFEST + "---\n" + MANIFEST


def test_a_descriptor_is_a_place_to_write_to() -> None:
    done = rekindle("inject", "-o", "/dev/stdout", given=MANIFEST)
    assert done.returncode == 0, done.stderr
    assert rekindle("uninject", "-o", "/dev/stdout", given=done.stdout).stdout == MANIFEST


def test_line_ends_and_a_byte_order_mark_go_through_files_and_pipes(tmp_path: Path) -> None:
    file, output = tmp_path / "p.yaml", tmp_path / "out"
    content = ("\ufeff" + MANIFEST.replace("\n", "\r\n")).encode()
    file.write_bytes(content)
    assert rekindle("inject", "-f", str(file), "-o", str(output)).returncode == 0
    assert output.read_bytes().count(b"\n") == output.read_bytes().count(b"\r\n")
    command = [sys.executable, "-m", "rekindle.cli", "uninject"]
    back = subprocess.run(command, input=output.read_bytes(), capture_output=True, timeout=60, check=True)
    assert back.stdout == content


def test_a_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(MANIFEST.encode("utf-16"))
    done = rekindle("inject", "-f", str(tmp_path / "p.yaml"))
    assert done.returncode == 2
    assert "p.yaml" in done.stderr
    assert "check -f" in done.stderr


def test_nothing_to_inject_is_an_error_and_the_manifest_passes_through() -> None:
    service = "kind: Service\nmetadata: {name:  s}\n"
    done = rekindle("inject", given=service)
    assert done.returncode == 5
    assert done.stdout == service
    assert "no pods were found" in done.stderr


def test_a_broken_file_says_where_and_nothing_is_written(tmp_path: Path) -> None:
    broken, output = tmp_path / "broken.yaml", tmp_path / "out"
    broken.write_text("a: [1\nb: 2\n")
    done = rekindle("inject", "-f", str(broken), "-o", str(output))
    assert done.returncode == 2
    assert "line 2, column 2" in done.stderr
    assert not output.exists()


def test_a_dry_run_only_reports() -> None:
    done = rekindle("inject", "--dry-run", given=MANIFEST)
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 injected" in done.stderr


def test_what_is_staged_is_all_that_an_engine_needs(tmp_path: Path) -> None:
    assert rekindle("stage", str(tmp_path / "shim")).returncode == 0
    code = "import sys; sys.path.insert(0, sys.argv[1]); import rekindle_plugins.client, rekindle_plugins.vllm"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "shim")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
