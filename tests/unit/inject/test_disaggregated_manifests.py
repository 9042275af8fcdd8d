"""The example's prefill and decode Deployments get a sidecar each; their NixlConnector stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
from rekindle.backends import discover
from rekindle.inject import Options, Outcome, inject, uninject
from rekindle.inject.documents import Stream
from ruamel.yaml import YAML

MANIFESTS = Path(__file__).parents[3] / "examples" / "disaggregated" / "kubernetes.yaml"
FLAG = "--kv-transfer-config="


def objects(text: str) -> dict[tuple[str, str], Any]:
    return {(node["kind"], node["metadata"]["name"]): node for node in YAML(typ="safe").load_all(text)}


def test_both_engines_get_a_sidecar_and_ours_beside_their_connector() -> None:
    given = MANIFESTS.read_text()
    stream = Stream.read("manifest", given)
    done = inject(stream, Options(image="rekindle-sidecar:1", version="1"), discover())
    assert [result.outcome for result in done] == [Outcome.INJECTED, Outcome.INJECTED, Outcome.SKIPPED]
    before, after = objects(given), objects(stream.write())
    for node in after.values():
        kubernetes_validate.validate(node, "1.34", strict=True)
    for name, role in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        pod = after["Deployment", name]["spec"]["template"]["spec"]
        assert "rekindle" in [container["name"] for container in pod["initContainers"]]
        (text,) = [arg.removeprefix(FLAG) for arg in pod["containers"][0]["args"] if arg.startswith(FLAG)]
        config = json.loads(text)
        assert (config["kv_connector"], config["kv_role"]) == ("MultiConnector", role)
        assert config["kv_load_failure_policy"] == "recompute"
        ours, nixl = config["kv_connector_extra_config"]["connectors"]
        assert ours["kv_connector"] == "RekindleConnector"
        assert nixl == {"kv_connector": "NixlConnector", "kv_role": role}
    assert after["Deployment", "router"] == before["Deployment", "router"]
    back = Stream.read("manifest", stream.write())
    uninject(back)
    assert objects(back.write()) == before
