"""Where the proxy listens."""

from __future__ import annotations

import asyncio

import pytest
from driving.proxied import free_port
from rekindle.config import HttpAddress
from rekindle.proxy.limits import Limits
from rekindle.proxy.server import ProxyServer


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "127.0.0.1"])
def test_every_way_to_say_all_addresses_takes_ipv4(host: str) -> None:
    async def run() -> None:
        port = free_port()
        server = ProxyServer(HttpAddress(host, port), "http://127.0.0.1:1", (), Limits())
        assert (await server.start()).port == port
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        finally:
            await server.stop()

    asyncio.run(run())
