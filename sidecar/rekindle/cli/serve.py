"""``rekindle serve``: the keeper, the admin API and HTTP in one process, until SIGTERM or SIGINT.

One thread runs everything that is ours, on uvloop. Order matters: the keeper first, because it takes the run dir's
lock, which makes a left-over admin socket ours to remove; and last to stop, so that its end can be watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import click

from rekindle.cli import logs
from rekindle.cli.options import config_flags, load_config
from rekindle.config import Config, make_run_dir

LOG = logging.getLogger("rekindle.serve")


@click.command()
@config_flags
def serve(config_file: Path | None, **flags: object) -> None:
    """Run the sidecar until SIGTERM or SIGINT.

    Every flag can be set as REKINDLE_<NAME> (REKINDLE_STORE_SIZE=8GiB) or in the file given with --config.
    """
    config, warnings = load_config(config_file, flags)
    logs.set_up(config.log_level, config.log_json)
    for warning in (*warnings, *make_run_dir(config)):
        LOG.warning("configuration", extra={"problem": warning})
    _allow_many_descriptors()
    import uvloop

    uvloop.run(serve_until_signalled(config))


async def serve_until_signalled(config: Config) -> None:
    """Start everything, wait for a signal, stop everything. A second signal ends the process at once.

    Raises:
        RekindleError: something could not start; what had been started was stopped again.
    """
    # Imported here, one after the other, because each is needed only by this command and none of them is small.
    from rekindle.admin.server import AdminServer
    from rekindle.backends import discover
    from rekindle.keeper import Keeper

    ended = _on_signals()
    async with AsyncExitStack() as running:
        backends = discover(config.plugin_dirs)
        running.callback(backends.close)
        keeper = Keeper(config, backends)
        await keeper.start()
        running.push_async_callback(keeper.stop)
        proxy = None
        if config.proxy is not None:
            from rekindle.cli.proxy_child import ProxyChild

            proxy = ProxyChild(config, keeper.tell_silent)
            running.push_async_callback(proxy.stop)
            await proxy.start()  # before gRPC has threads, which do not like a fork
            keeper.serving.tell(proxy.tell)
        admin = AdminServer(keeper, config.admin_socket)
        running.push_async_callback(admin.stop)
        await admin.start()
        if config.http is not None:
            from rekindle.http.proxy_metrics import ProxyCollector
            from rekindle.http.server import HttpServer

            more = [ProxyCollector(proxy.told)] if proxy is not None else []
            http = HttpServer(keeper, config.http, more)
            running.push_async_callback(http.stop)
            await http.start()
        LOG.info("serving", extra={"pid": os.getpid(), "run_dir": str(config.run_dir)})
        name = await ended
        LOG.info("stopping", extra={"signal": name})
    LOG.info("stopped")


def _allow_many_descriptors() -> None:
    """As many as we may have: an engine of many ranks brings thousands, and the usual limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _on_signals() -> asyncio.Future[str]:
    """A future of the name of the first SIGTERM or SIGINT; the second one is the kernel's to handle."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def note(number: signal.Signals) -> None:
        for handled in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(handled)
            signal.signal(handled, signal.SIG_DFL)
        if not ended.done():
            ended.set_result(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note, number)
    return ended
