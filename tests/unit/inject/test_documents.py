"""Bytes and types: what a stream of documents keeps, whoever wrote it and whoever reads it next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rekindle.backends import Backends, discover
from rekindle.inject import GpuMode, Options, Outcome, inject, uninject
from rekindle.inject.documents import BYTE_ORDER_MARK, Stream
from rekindle.inject.scalars import quoted
from rekindle_plugins.contract.errors import ConfigError
from ruamel.yaml import YAML

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: p
spec:
  containers:
  - name: engine  # ours
    image: vllm/vllm-openai
"""
SERVICE = 'apiVersion: v1\nkind: Service\nmetadata: {name:  "s"}   # odd\n'


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def injected(text: str, backends: Backends, **changes: Any) -> str:
    stream = Stream.read("manifest", text)
    done = inject(stream, Options(**{"image": "r:1", "version": "1", **changes}), backends)
    assert Outcome.INJECTED in {result.outcome for result in done}, done
    return stream.write()


def uninjected(text: str) -> str:
    stream = Stream.read("manifest", text)
    uninject(stream)
    return stream.write()


def plain(text: str, version: tuple[int, int] = (1, 2)) -> list[Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version  # type: ignore[assignment]
    return list(yaml.load_all(text))


def test_line_ends_stay_as_they_are(backends: Backends) -> None:
    text = f"{SERVICE}---\n{POD}".replace("\n", "\r\n")
    once = injected(text, backends)
    assert once.startswith(SERVICE.replace("\n", "\r\n") + "---\r\n")
    assert once.count("\n") == once.count("\r\n")
    assert injected(once, backends) == once
    assert uninjected(once) == text
    assert plain(once) == plain(injected(text.replace("\r\n", "\n"), backends))


MANIFESTS = sorted((Path(__file__).parent / "manifests").glob("*.yaml"))
FORMS: dict[str, Callable[[str], str]] = {
    "line ends": lambda text: text.replace("\n", "\r\n"),
    "mark": lambda text: BYTE_ORDER_MARK + text,
    "json": lambda text: "\n---\n".join(json.dumps(node, indent=2) for node in plain(text)),
    "list": lambda text: json.dumps({"apiVersion": "v1", "kind": "List", "items": plain(text)}),
    "version": lambda text: f"%YAML 1.1\n---\n{text.removeprefix('---')}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_in_every_form_is_the_same_when_done_twice_and_comes_back(
    path: Path, form: str, backends: Backends
) -> None:
    text = FORMS[form](path.read_text())
    for mode in (GpuMode.AUTO, GpuMode.DRA):
        if mode is GpuMode.DRA and "nvidia.com/gpu" not in text:
            continue
        once = injected(text, backends, gpu_mode=mode, proxy=True)
        assert injected(once, backends, gpu_mode=mode, proxy=True) == once
        assert plain(uninjected(once).lstrip(BYTE_ORDER_MARK)) == plain(text.lstrip(BYTE_ORDER_MARK))


def test_a_script_in_a_file_with_other_line_ends_is_the_same_script(backends: Backends) -> None:
    text = POD + "    command: [sh, -c]\n    args:\n    - |\n      set -e\n      exec vllm serve m\n"
    once = injected(text.replace("\n", "\r\n"), backends)
    (script,) = plain(once)[0]["spec"]["containers"][0]["args"]
    assert script.startswith("set -e\nexec vllm serve m --kv-transfer-config '")
    assert uninjected(once) == text.replace("\n", "\r\n")


def test_a_byte_order_mark_stays_the_first_character(backends: Backends) -> None:
    once = injected(BYTE_ORDER_MARK + POD, backends)
    assert once.startswith(f"{BYTE_ORDER_MARK}apiVersion")
    assert injected(once, backends) == once
    assert uninjected(once) == BYTE_ORDER_MARK + POD


@pytest.mark.parametrize("indent", [None, 2, 4, "\t"])
def test_json_stays_json(indent: int | str | None, backends: Backends) -> None:
    given = plain(POD)[0]
    given["metadata"]["labels"] = {"answer": "yes", "é": "1"}
    text = json.dumps(given, indent=indent, ensure_ascii=False) + "\n"
    once = injected(text, backends)
    assert "rekindle-shim" in json.loads(once)["spec"]["initContainers"][0]["name"]
    assert injected(once, backends) == once
    assert uninjected(once) == text


def test_json_on_one_line_without_spaces_stays_so(backends: Backends) -> None:
    text = json.dumps(plain(POD)[0], separators=(",", ":"))
    once = injected(text, backends)
    assert "\n" not in once
    assert json.loads(once)
    assert uninjected(once) == text


def test_json_that_gets_a_document_behind_it_becomes_yaml_that_means_the_same(backends: Backends) -> None:
    given = plain(POD)[0]
    given["metadata"]["labels"] = {"answer": "yes"}
    given["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    once = injected(json.dumps(given, indent=2), backends, gpu_mode=GpuMode.DRA)
    assert not once.startswith("{")
    pod, claim = plain(once, (1, 1))
    assert claim["kind"] == "ResourceClaimTemplate"
    assert pod["metadata"]["labels"] == {"answer": "yes"}
    assert injected(once, backends, gpu_mode=GpuMode.DRA) == once
    assert plain(uninjected(once)) == [given]


def test_a_key_that_is_there_twice_in_json_is_told() -> None:
    with pytest.raises(ConfigError, match="line 1"):
        Stream.read("manifest", '{"kind": "Pod", "kind": "Pod"}')


def test_a_version_of_yaml_is_for_its_own_document(backends: Backends) -> None:
    text = (
        f"# before\n%YAML 1.1\n---\n{POD}  hostIPC: yes\n...\n%YAML 1.1\n# why\n---\n{SERVICE}---\nmode: 0777\nx: yes\n"
    )
    once = injected(text, backends)
    assert once.startswith("# before\n%YAML 1.1\n---\napiVersion")
    assert once.endswith(f"%YAML 1.1\n# why\n---\n{SERVICE}---\nmode: 0777\nx: yes\n")
    assert plain(once)[0]["spec"]["hostIPC"] is True
    assert injected(once, backends) == once
    assert plain(uninjected(once)) == plain(text)
    assert Stream.read("manifest", text).documents[-1].node == {"mode": 777, "x": "yes"}


@pytest.mark.parametrize(
    "text",
    [
        "y",
        "YES",
        "off",
        "010",
        "0x1f",
        "0b1",
        "1_000",
        "12:30",
        "1:2:3.5",
        "1e3",
        ".5",
        "2026-01-02",
        "=",
        "<<",
        "~",
        "",
    ],
)
def test_strings_that_older_readers_take_for_something_else_are_quoted(text: str) -> None:
    yaml = YAML(typ="rt")
    stream = Stream("x", [], yaml)
    stream.append({"value": text, text or "k": [text]})
    written = stream.write()
    for version in ((1, 1), (1, 2)):
        (node,) = plain(written, version)
        assert node == {"value": text, text or "k": [text]}


@pytest.mark.parametrize("text", ["yes, we can", "1.2.3", "0.0.0.0:9470", "8256Mi", "100m", "a", "--port=8000", "/on"])
def test_other_strings_stay_as_they_are(text: str) -> None:
    assert type(quoted(text)) is str


def test_what_is_put_back_means_the_same_to_every_reader(backends: Backends) -> None:
    probe = '    livenessProbe:\n      httpGet: {path: "/on", port: 8000, httpHeaders: [{name: X, value: "yes"}]}\n'
    text = POD + probe + '    env:\n    - name: PYTHONPATH\n      value: "010"\n'
    back = uninjected(injected(text, backends))
    for version in ((1, 1), (1, 2)):
        assert plain(back, version) == plain(text, version)


MERGED = """\
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: other
    image: other
    resources:
      limits: &limits {nvidia.com/gpu: 1, memory: 1Gi}
  - name: engine
    image: vllm/vllm-openai
    resources:
      limits:
        <<: *limits
        cpu: 4
"""


def test_what_a_merge_key_brings_can_be_removed(backends: Backends) -> None:
    once = injected(MERGED, backends, gpu_mode=GpuMode.DRA)
    other, engine = plain(once)[0]["spec"]["containers"]
    assert engine["resources"]["limits"] == {"cpu": 4, "memory": "1Gi"}
    assert other["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "1Gi"}
    assert injected(once, backends, gpu_mode=GpuMode.DRA) == once
    assert plain(uninjected(once)) == plain(MERGED)


def test_what_others_merge_from_the_engine_is_not_changed_with_it(backends: Backends) -> None:
    text = """\
kind: Pod
metadata: {name: p}
spec:
  containers:
  - &engine
    name: engine
    image: vllm/vllm-openai
    env: [{name: A, value: b}]
    resources: {limits: {nvidia.com/gpu: 1}}
  - <<: *engine
    name: other
    image: other
"""
    once = injected(text, backends, gpu_mode=GpuMode.DRA)
    assert plain(once)[0]["spec"]["containers"][1] == plain(text)[0]["spec"]["containers"][1]
    assert injected(once, backends, gpu_mode=GpuMode.DRA) == once
    assert plain(uninjected(once)) == plain(text)


NULLS = {
    "args": "    args:\n",
    "env": "    env:\n",
    "mounts": "    volumeMounts:\n",
    "probe": "    livenessProbe:\n",
    "resources": "    resources:\n      limits:\n      requests:\n",
    "user": "    securityContext:\n      runAsUser:\n      runAsNonRoot:\n",
    "path": "    env:\n    - name: PYTHONPATH\n      value:\n",
    "volumes": "  volumes:\n",
    "init containers": "  initContainers:\n",
    "context": "  securityContext:\n",
}


@pytest.mark.parametrize("more", NULLS.values(), ids=NULLS)
def test_a_key_without_a_value_is_as_good_as_none_and_comes_back(more: str, backends: Backends) -> None:
    text = POD + more
    once = injected(text, backends)
    assert injected(once, backends) == once
    assert uninjected(once) == text


@pytest.mark.parametrize("metadata", ["metadata:\n", "metadata:\n  name: p\n  annotations:\n"])
def test_metadata_without_a_value_comes_back(metadata: str, backends: Backends) -> None:
    text = POD.replace("metadata:\n  name: p\n", metadata)
    once = injected(text, backends)
    assert injected(once, backends) == once
    assert uninjected(once) == text
