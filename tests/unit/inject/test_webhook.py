"""The webhook over real HTTPS, and its answers as a cluster would use them."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes_validate
import pytest
import trustme
from rekindle.backends import Backends, discover
from rekindle.inject import GpuMode, Options, webhook
from rekindle.inject.admission import review
from rekindle.inject.webhook import Certificate, Webhook
from rekindle_plugins.contract.errors import ConfigError, ProtocolError, UnavailableError
from ruamel.yaml import YAML

OPTIONS = Options(image="rekindle-sidecar:1", version="1")
VLLM = {"name": "vllm", "image": "i", "command": ["vllm", "serve", "m"]}


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def pod(*containers: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"generateName": "p-", **metadata}, "spec": {"containers": list(containers)}}


def asked(pod: Any, kind: str = "Pod", operation: str = "CREATE") -> dict[str, Any]:
    request = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": kind},
        "operation": operation,
        "object": pod,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def patched(pod: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The pod after the answer's patch: whole values at two places, as RFC 6902 adds and replaces them."""
    result = json.loads(json.dumps(pod))
    for operation in json.loads(base64.b64decode(answer["response"].get("patch", base64.b64encode(b"[]")))):
        parent, *rest = operation["path"].strip("/").split("/")
        if rest:
            result[parent][rest[0]] = operation["value"]
        else:
            assert operation["op"] == "add" or parent in result
            result[parent] = operation["value"]
    return result


ENABLED = {"rekindle.dev/inject": "enabled"}


@pytest.mark.parametrize("where", ["annotations", "labels"])
def test_a_pod_that_says_so_gets_the_sidecar_and_stays_valid(where: str, backends: Backends) -> None:
    given = pod(VLLM, **{where: ENABLED})
    answer = review(asked(given), OPTIONS, backends)
    assert answer["response"]["uid"] == "u-1"
    assert answer["response"]["allowed"] is True
    result = patched(given, answer)
    assert [c["name"] for c in result["spec"]["initContainers"]] == ["rekindle-shim", "rekindle"]
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **result}, "1.34", strict=True)


def test_what_was_injected_already_is_left_alone(backends: Backends) -> None:
    given = pod(VLLM, annotations=ENABLED)
    once = patched(given, review(asked(given), OPTIONS, backends))
    assert "patch" not in review(asked(once), OPTIONS, backends)["response"]


@pytest.mark.parametrize(
    "body",
    [
        asked(pod(VLLM)),
        asked(pod(VLLM, labels={"rekindle.dev/inject": "no"})),
        asked(pod(VLLM, labels=ENABLED), kind="Service"),
        asked(pod(VLLM, labels=ENABLED), operation="UPDATE"),
        asked(None),
    ],
    ids=["says nothing", "says no", "another kind", "another operation", "no object"],
)
def test_everything_else_is_allowed_as_it_is(body: dict[str, Any], backends: Backends) -> None:
    response = review(body, OPTIONS, backends)["response"]
    assert response == {"uid": "u-1", "allowed": True}


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"name": "web", "image": "nginx"}, "no container looks like an engine"),
        ({"name": "e", "image": "i", "command": ["sh", "-c", "vllm serve m | tee x"]}, "a script for a shell"),
    ],
)
def test_a_pod_that_cannot_be_injected_says_why_and_is_created(
    container: dict[str, Any], reason: str, backends: Backends
) -> None:
    given = pod(container, annotations={**ENABLED, "mine": "kept"})
    result = patched(given, review(asked(given), OPTIONS, backends))
    assert result["spec"] == given["spec"]
    assert reason in result["metadata"]["annotations"]["rekindle.dev/skip-reason"]
    assert result["metadata"]["annotations"]["mine"] == "kept"


def test_a_pod_can_ask_for_the_proxy(backends: Backends) -> None:
    given = pod(VLLM, annotations={**ENABLED, "rekindle.dev/proxy": "enabled", "rekindle.dev/engine-port": "9900"})
    result = patched(given, review(asked(given), OPTIONS, backends))
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **result}, "1.34", strict=True)
    (sidecar,) = [c for c in result["spec"]["initContainers"] if c["name"] == "rekindle"]
    assert {"name": "REKINDLE_PROXY", "value": "0.0.0.0:8000=http://127.0.0.1:9900"} in sidecar["env"]
    assert result["spec"]["containers"][0]["command"][-2:] == ["--port", "9900"]


def test_a_pod_whose_port_cannot_be_taken_over_says_why(backends: Backends) -> None:
    container = {**VLLM, "command": ["vllm", "serve", "m", "--port=$(PORT)"]}
    given = pod(container, annotations={**ENABLED, "rekindle.dev/proxy": "enabled"})
    result = patched(given, review(asked(given), OPTIONS, backends))
    assert result["spec"] == given["spec"]
    assert "the variable PORT" in result["metadata"]["annotations"]["rekindle.dev/skip-reason"]


def test_claims_are_not_for_a_webhook(backends: Backends) -> None:
    given = pod(VLLM, labels=ENABLED)
    options = Options(image="i", version="1", gpu_mode=GpuMode.DRA)
    result = patched(given, review(asked(given), options, backends))
    assert "rekindle inject" in result["metadata"]["annotations"]["rekindle.dev/skip-reason"]


@pytest.mark.parametrize("body", [None, [], {}, {"request": 7}, asked(pod()) | {"apiVersion": "v2"}])
def test_a_malformed_review_is_refused(body: Any, backends: Backends) -> None:
    with pytest.raises(ProtocolError):
        review(body, OPTIONS, backends)


def write_certificate(folder: Path, authority: trustme.CA) -> Certificate:
    issued = authority.issue_cert("localhost")
    certificate = Certificate(folder / "tls.crt", folder / "tls.key")
    issued.private_key_pem.write_to_path(certificate.key)
    certificate.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return certificate


def over_https(
    tmp_path: Path, backends: Backends, work: Callable[[str, ssl.SSLContext, trustme.CA], Awaitable[None]]
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def run() -> None:
        server = Webhook(OPTIONS, backends, write_certificate(tmp_path, authority))
        await server.start("127.0.0.1", 0)
        try:
            await work(f"https://localhost:{server.port}", context, authority)
        finally:
            await server.stop()

    asyncio.run(run())


def test_it_answers_over_https_and_refuses_nonsense(tmp_path: Path, backends: Backends) -> None:
    async def work(url: str, context: ssl.SSLContext, _: trustme.CA) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            async with session.get(f"{url}/readyz") as answer:
                assert answer.status == 200
            async with session.post(f"{url}/mutate", json=asked(pod(VLLM, labels=ENABLED))) as answer:
                assert "patch" in (await answer.json())["response"]
            for nonsense in (b"{", b"[" * 100_000, b"{}"):
                async with session.post(f"{url}/mutate", data=nonsense) as answer:
                    assert answer.status == 400
            async with session.post(f"{url}/mutate", data=b"x" * (webhook.MAX_REVIEW_BYTES + 1)) as answer:
                assert answer.status == 413

    over_https(tmp_path, backends, work)


def test_a_renewed_certificate_is_taken_up_and_half_a_one_is_not(
    tmp_path: Path, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "RELOAD_PERIOD_S", 0.01)

    async def work(url: str, context: ssl.SSLContext, _: trustme.CA) -> None:
        host, port = url.removeprefix("https://").split(":")

        async def is_served(trusted: ssl.SSLContext) -> bool:
            try:
                _, writer = await asyncio.open_connection(host, int(port), ssl=trusted)
            except ssl.SSLError:
                return False
            writer.close()
            return True

        (tmp_path / "tls.crt").write_text("half")
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert await is_served(context)
        renewed = trustme.CA()
        fresh = ssl.create_default_context()
        renewed.configure_trust(fresh)
        write_certificate(tmp_path, renewed)
        deadline = time.monotonic() + 20
        while not await is_served(fresh):
            assert time.monotonic() < deadline, "the renewed certificate was never served"
            await asyncio.sleep(0.01)

    over_https(tmp_path, backends, work)


def test_a_bad_certificate_and_a_taken_port_are_told(tmp_path: Path, backends: Backends) -> None:
    async def run() -> None:
        authority = trustme.CA()
        server = Webhook(OPTIONS, backends, write_certificate(tmp_path, authority))
        await server.start("127.0.0.1", 0)
        try:
            second = Webhook(OPTIONS, backends, write_certificate(tmp_path, authority))
            with pytest.raises(UnavailableError):
                await second.start("127.0.0.1", server.port)
        finally:
            await server.stop()
        third = Webhook(OPTIONS, backends, Certificate(tmp_path / "none", tmp_path / "tls.key"))
        with pytest.raises(ConfigError, match="certificate"):
            await third.start("127.0.0.1", 0)

    asyncio.run(run())


def test_its_manifests_are_valid_and_fit_together() -> None:
    path = Path(__file__).parents[3] / "examples" / "kubernetes" / "webhook.yaml"
    found = {node["kind"]: node for node in YAML(typ="safe").load_all(path.read_text())}
    for kind in ("Namespace", "ServiceAccount", "Deployment", "Service", "MutatingWebhookConfiguration"):
        kubernetes_validate.validate(found[kind], "1.34", strict=True)
    (hook,) = found["MutatingWebhookConfiguration"]["webhooks"]
    assert hook["failurePolicy"] == "Ignore"
    service, deployment = found["Service"], found["Deployment"]["spec"]["template"]
    assert hook["clientConfig"]["service"]["name"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= deployment["metadata"]["labels"].items()
    (container,) = deployment["spec"]["containers"]
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
    assert found["Certificate"]["spec"]["secretName"] == deployment["spec"]["volumes"][0]["secret"]["secretName"]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert found["Certificate"]["spec"]["dnsNames"] == [host]
