"""``/livez``, ``/readyz`` and ``/metrics`` on the keeper's event loop.

Runs in the keeper's process, without threads of its own. Read-only and without authentication, so it listens on
127.0.0.1 unless told otherwise (a kubelet's probes come from outside the pod: ``--http 0.0.0.0:9470``).

    /livez    200 when the event loop turns. Says nothing about engines or stores.
    /readyz   200 when the keeper listens for engines, else 503 with reasons. Never depends on an engine being there,
              nor on a pause or drain: the pod of a working engine is to stay in its Service meanwhile.
    /metrics  Prometheus' text format; the names are in ``rekindle.http.metrics``.

    /engine/livez   503 when an attached engine hangs, and for nothing else: 200 without an engine, while one starts,
                    and when we do not know. For the liveness probe of the *engine's* container, which must not end an
                    engine for the sidecar's troubles, its absence included. So the probe asks for the one answer:
                    test "$(curl -s -o /dev/null -m 2 -w '%{http_code}' http://127.0.0.1:9470/engine/livez)" != 503
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from rekindle_plugins.contract.errors import InUseError, RekindleError

from rekindle.admin.source import StatusSource
from rekindle.config import HttpAddress
from rekindle.http.metrics import KeeperCollector, MetricsSource

LOG = logging.getLogger("rekindle.http")


class HttpServer:
    """One listener. Not restartable: make another."""

    def __init__(self, source: MetricsSource, address: HttpAddress, more: Sequence[Collector] = ()) -> None:
        """`more`: metrics that are not the keeper's."""
        self._source = source
        self._address = address
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in (KeeperCollector(source), *more):
            self._registry.register(collector)
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> HttpAddress:
        """Where it listens: with the port the kernel chose, once started."""
        if self._runner is not None and self._runner.addresses:
            host, port = self._runner.addresses[0][:2]
            return HttpAddress(str(host), int(port))
        return self._address

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            InUseError: the address is taken, or not ours. Nothing runs then.
        """
        app = web.Application(client_max_size=1024)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/engine/livez", self._engine_livez)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._address.host, self._address.port).start()
        except OSError as error:
            await runner.cleanup()
            subject = f"http {self._address.host}:{self._address.port}"
            hint = "choose another with --http, or switch it off: --http off"
            raise InUseError("listen", subject, error.strerror or str(error), hint) from None
        self._runner = runner
        LOG.info("http listening", extra={"host": self.address.host, "port": self.address.port})

    async def stop(self) -> None:
        """Stop listening, within a second. Safe to call twice."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _livez(self, request: web.Request) -> web.Response:
        await asyncio.sleep(0)  # one whole turn of the loop, not only this callback
        return web.json_response({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = not_ready_reasons(self._source)
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _engine_livez(self, request: web.Request) -> web.Response:
        try:
            engines = self._source.status().engines
        except Exception as error:  # whatever it is, it is no hang of an engine
            LOG.warning("status failed", extra={"error": f"{type(error).__name__}: {error}"})
            return web.json_response({"alive": True, "hung": [], "unknown": type(error).__name__})
        hung = [f"{e.backend} {e.instance}: {e.note}" for e in engines if e.hung_s is not None]
        return web.json_response({"alive": not hung, "hung": hung}, status=503 if hung else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        # Between two awaits of nothing: the collector reads plain values and takes about a millisecond.
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def not_ready_reasons(source: StatusSource) -> list[str]:
    """Why the keeper cannot take an engine; empty when it can. What the stores have to say comes along."""
    try:
        status = source.status()
    except RekindleError as error:
        return [str(error)]
    if status.ready:
        return []
    told = [f"store {store.directory}: {message}" for store in status.stores for message in store.messages]
    return ["the keeper is not ready: starting, or stopping", *told]
