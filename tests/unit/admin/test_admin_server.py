"""The admin API over a real Unix socket: answers, errors, health, reflection, and what lies in its way."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rekindle.admin import failure
from rekindle.admin import server as admin_server
from rekindle.admin.client import AdminClient
from rekindle.admin.server import SERVICE, AdminServer, target
from rekindle_plugins.contract.errors import RekindleError, StoreFullError, UnavailableError
from status_samples import EMPTY, STATUS, FakeSource

Result = TypeVar("Result")


@asynccontextmanager
async def serving(source: FakeSource, path: Path) -> AsyncIterator[AdminServer]:
    server = AdminServer(source, path)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace_s=0)


def with_server(source: FakeSource, path: Path, use: Callable[[AdminServer], Awaitable[Result]]) -> Result:
    async def main() -> Result:
        async with serving(source, path) as server:
            return await use(server)

    return asyncio.run(asyncio.wait_for(main(), 20))


def ask(path: Path) -> Any:
    with AdminClient(path) as client:
        return client.status()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def test_the_client_gets_the_status(path: Path) -> None:
    assert with_server(FakeSource(), path, lambda _: asyncio.to_thread(ask, path)) == STATUS


def test_odd_characters_in_the_path_do_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20#?é"
    folder.mkdir()
    path = folder / "admin.sock"
    assert with_server(FakeSource(), path, lambda _: asyncio.to_thread(ask, path)) == STATUS


def test_the_socket_is_private_and_removed_at_the_end(path: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)

    async def use(_: AdminServer) -> None:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert os.umask(before) == before

    with_server(FakeSource(), path, use)
    assert not path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert with_server(FakeSource(), path, lambda _: asyncio.to_thread(ask, path)) == STATUS


def test_something_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(UnavailableError, match="no socket"):
        with_server(FakeSource(), path, lambda _: asyncio.sleep(0))
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="admin socket"):
        with_server(FakeSource(), tmp_path / "absent" / "admin.sock", lambda _: asyncio.sleep(0))


def test_a_typed_error_reaches_the_client_as_itself(path: Path) -> None:
    source = FakeSource(error=StoreFullError("claim", "arena a1", "no evictable slot", "raise --store-size"))

    async def use(_: AdminServer) -> RekindleError:
        with pytest.raises(StoreFullError) as caught:
            await asyncio.to_thread(ask, path)
        return caught.value

    error = with_server(source, path, use)
    assert error.hint == "raise --store-size"
    assert failure.outside(error).exit is failure.Exit.DEGRADED


def test_a_bug_is_internal_and_tells_no_more_than_its_kind(path: Path) -> None:
    async def use(_: AdminServer) -> RekindleError:
        with pytest.raises(RekindleError) as caught:
            await asyncio.to_thread(ask, path)
        return caught.value

    error = with_server(FakeSource(error=ZeroDivisionError("secret")), path, use)
    assert error.code == "internal"
    assert "ZeroDivisionError" in str(error)
    assert "secret" not in str(error)


def test_nobody_at_the_socket_is_unavailable_with_a_hint(path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        ask(path)
    assert caught.value.hint.startswith("is `rekindle serve` running?")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(UnavailableError, match="nobody answers"):
        ask(path)


def test_a_sidecar_that_hangs_is_unavailable_after_the_deadline(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        with pytest.raises(UnavailableError), AdminClient(path, deadline_s=0.3) as client:
            client.status()


def test_health_follows_the_keepers_readiness(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "_HEALTH_PERIOD_S", 0.02)
    source = FakeSource(EMPTY)

    async def use(_: AdminServer) -> list[int]:
        async with grpc.aio.insecure_channel(target(path)) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            seen = [(await watch.read()).status]
            source.value = STATUS
            seen.append((await watch.read()).status)
            whole = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            return [*seen, whole.status]

    word = health_pb2.HealthCheckResponse
    assert with_server(source, path, use) == [word.NOT_SERVING, word.SERVING, word.SERVING]


def test_reflection_lists_the_services_and_describes_ours(path: Path) -> None:
    """What grpcurl does: list, then fetch the file that holds the service, then call without a proto at hand."""

    async def use(_: AdminServer) -> tuple[set[str], FileDescriptorProto]:
        async with grpc.aio.insecure_channel(target(path)) as channel:
            request = reflection_pb2.ServerReflectionRequest
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await call.write(request(list_services=""))
            listed = await call.read()
            await call.write(request(file_containing_symbol=SERVICE))
            found = await call.read()
            await call.done_writing()
        names = {service.name for service in listed.list_services_response.service}
        files = [FileDescriptorProto.FromString(raw) for raw in found.file_descriptor_response.file_descriptor_proto]
        return names, next(file for file in files if file.name == "rekindle/admin/v1/admin.proto")

    names, described = with_server(FakeSource(), path, use)
    standard = {"grpc.health.v1.Health", "grpc.channelz.v1.Channelz", "grpc.reflection.v1alpha.ServerReflection"}
    assert names == {SERVICE} | standard
    assert "GetStatus" in [method.name for method in described.service[0].method]


def test_channelz_tells_of_our_server(path: Path) -> None:
    async def use(_: AdminServer) -> int:
        async with grpc.aio.insecure_channel(target(path)) as channel:
            stub = channelz_pb2_grpc.ChannelzStub(channel)
            return len((await stub.GetServers(channelz_pb2.GetServersRequest())).server)

    assert with_server(FakeSource(), path, use) >= 1


def test_a_stream_that_fails_tells_why_as_any_other_verb_does(path: Path) -> None:
    def look() -> RekindleError:
        with AdminClient(path) as client, pytest.raises(RekindleError) as caught:
            list(client.verify())
        return caught.value

    error = with_server(FakeSource(), path, lambda _: asyncio.to_thread(look))
    assert error.code == "internal", "a stand-in has no operator, which is a bug"
    assert "AttributeError" in str(error)


def test_stopping_twice_is_fine(path: Path) -> None:
    with_server(FakeSource(), path, lambda server: server.stop(grace_s=0))
