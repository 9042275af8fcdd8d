"""`rekindle webhook`: add the sidecar to pods as they are created."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import click
from rekindle_plugins.contract.errors import ConfigError

from rekindle.cli.inject import injection_flags, options_from
from rekindle.config import parse_http

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@injection_flags
@click.option("--listen", default="0.0.0.0:8443", show_default=True, help="host:port for HTTPS.")
@click.option(
    "--tls-cert", required=True, type=click.Path(dir_okay=False, path_type=Path), help="PEM, re-read when new."
)
@click.option("--tls-key", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Its key, PEM.")
@click.option("--log-json", is_flag=True, help="Log JSON lines instead of key=value.")
def webhook(listen: str, tls_cert: Path, tls_key: Path, log_json: bool, **given: Any) -> None:
    """Serve the mutating admission webhook for pods, until SIGTERM or SIGINT.

    A pod takes part by annotation or label rekindle.dev/inject=enabled. Manifests: examples/kubernetes/webhook.yaml.
    """
    from rekindle.cli import logs
    from rekindle.inject.webhook import Certificate, Webhook

    try:
        address = parse_http(listen)
    except ValueError as error:
        raise ConfigError("read", "flag --listen", f"{listen!r} {error}") from None
    if address is None:
        raise ConfigError("read", "flag --listen", "a webhook that does not listen is of no use", "host:port")
    logs.set_up("info", log_json)
    options, backends = options_from(given)

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        server = Webhook(options, backends, Certificate(tls_cert, tls_key))
        await server.start(*address)
        await ended.wait()
        await server.stop()

    asyncio.run(serve())
