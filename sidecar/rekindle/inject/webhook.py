"""The mutating webhook: HTTPS around `admission.review`. Its own process, which a cluster runs once or twice.

    POST /mutate    AdmissionReview in, AdmissionReview out
    GET  /readyz    for its own probes, over the same port

Certificates are files (cert-manager writes and renews them). They are looked at again every `RELOAD_PERIOD_S` and
loaded into the context in use: connections that are open keep theirs, new ones get the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from rekindle_plugins.contract.errors import ConfigError, ProtocolError, UnavailableError

from rekindle.backends import Backends
from rekindle.inject.admission import review
from rekindle.inject.options import Options

log = logging.getLogger("rekindle.webhook")

MAX_REVIEW_BYTES = 8 << 20
"""etcd takes 1.5 MiB an object; a review has it once or twice."""
RELOAD_PERIOD_S = 10.0


@dataclass(frozen=True)
class Certificate:
    """Where certificate and key are, in PEM."""

    certificate: Path
    key: Path

    def load(self, context: ssl.SSLContext) -> None:
        """Raises ConfigError where they cannot be read or do not belong together."""
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            hint = "check --tls-cert and --tls-key: PEM, and the key of that certificate"
            raise ConfigError("load", f"certificate {self.certificate}", str(error), hint) from None

    def stamp(self) -> tuple[int, int]:
        """Changes when the files do."""
        with contextlib.suppress(OSError):
            return self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns
        return 0, 0


class Webhook:
    """`start`, then serve until `stop`."""

    def __init__(self, options: Options, backends: Backends, certificate: Certificate) -> None:
        self.port = 0
        """The real one, once started."""
        self._options = options
        self._backends = backends
        self._certificate = certificate
        self._runner: web.AppRunner | None = None
        self._reloading: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Raises ConfigError for a certificate that cannot be used, UnavailableError for an address that cannot."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        stamp = self._certificate.stamp()
        self._certificate.load(context)
        app = web.Application(client_max_size=MAX_REVIEW_BYTES)
        app.router.add_post("/mutate", self._mutate)
        app.router.add_get("/readyz", self._ready)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=context).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UnavailableError("serve", f"{host}:{port}", error.strerror or str(error), "check --listen") from error
        self.port = int(self._runner.addresses[0][1])
        self._reloading = asyncio.create_task(self._reload(context, stamp), name="certificate")
        log.info("event=serving host=%s port=%d", host, self.port)

    async def stop(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _mutate(self, request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
            answer = review(body, self._options, self._backends)
        except (ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"the review is not JSON: {error}\n")
        except ProtocolError as error:
            return web.Response(status=400, text=f"{error}\n")
        pod = body["request"].get("object") or {}
        name = (pod.get("metadata") or {}).get("generateName", "") if isinstance(pod, dict) else ""
        log.info("event=reviewed pod=%s patched=%s", str(name)[:80], "patch" in answer["response"])
        return web.json_response(answer)

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n")

    async def _reload(self, context: ssl.SSLContext, stamp: tuple[int, int]) -> None:
        while True:
            await asyncio.sleep(RELOAD_PERIOD_S)
            now = self._certificate.stamp()
            if now == stamp:
                continue
            try:
                self._certificate.load(context)
            except ConfigError as error:
                log.error(
                    "event=certificate_not_loaded error=%s", error
                )  # the old one goes on; perhaps half is written
            else:
                stamp = now
                log.info("event=certificate_loaded path=%s", self._certificate.certificate)
