"""The rules that every transport keeps (isthmus.xds.server.transport), seen from a real gRPC client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest

from isthmus.xds.server.grpc_aio import GrpcAioTransport
from isthmus.xds.server.transport import Event, EventKind, TLSConfig, Transport
from tests.servers.authority import Authority
from tests.wait import eventually

PATH = "/isthmus.test.Any/Stream"
Call = grpc.aio.StreamStreamCall[bytes, bytes]


class World:
    """A transport that listens, what it reported, and clients."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.events: list[Event] = []
        self.channels: list[grpc.aio.Channel] = []
        self.address = ""

    def of(self, kind: EventKind) -> list[Event]:
        return [e for e in self.events if e.kind is kind]

    def messages(self, stream: int) -> list[bytes]:
        return [e.message for e in self.of(EventKind.MESSAGE) if e.id == stream]

    def was_writable(self, times: int) -> bool:
        return len(self.of(EventKind.WRITABLE)) >= times

    def call(self, path: str = PATH) -> Call:
        channel = grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.channels.append(channel)
        call: Call = channel.stream_stream(path)(metadata=(("who", "test"),))
        return call

    async def open(self) -> tuple[Call, int]:
        """A call that the server has seen."""
        known = len(self.of(EventKind.OPEN))
        call = self.call()
        await call.write(b"hello")
        await eventually(lambda: len(self.of(EventKind.OPEN)) > known, "the stream is open")
        return call, self.of(EventKind.OPEN)[known].id


@pytest.fixture(params=[GrpcAioTransport], ids=["grpc.aio"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    make: Callable[[], Transport] = request.param
    world = World(make())
    world.transport.start(asyncio.get_running_loop(), world.events.extend)
    world.address = await world.transport.listen("127.0.0.1:0", None)
    yield world
    for channel in world.channels:
        await channel.close()
    await world.transport.stop(0)


async def test_a_stream_opens_brings_messages_and_closes(world: World) -> None:
    call, stream = await world.open()
    await eventually(lambda: world.of(EventKind.MESSAGE), "the message arrives")
    call.cancel()
    await eventually(lambda: world.of(EventKind.CLOSED), "the close is reported")

    # A cancelled call may first look like one whose client has finished sending.
    kinds = [(e.kind, e.id) for e in world.events if e.kind is not EventKind.HALF_CLOSED]
    assert kinds == [(EventKind.OPEN, stream), (EventKind.MESSAGE, stream), (EventKind.CLOSED, stream)]
    opened = world.events[0]
    assert opened.path == PATH
    assert opened.metadata["who"] == "test"
    assert "127.0.0.1" in opened.peer
    assert world.events[1].message == b"hello"


async def test_ids_are_never_used_twice(world: World) -> None:
    for _ in range(3):
        call, _ = await world.open()
        call.cancel()
    await eventually(lambda: len(world.of(EventKind.CLOSED)) == 3, "all closed")

    assert len({e.id for e in world.of(EventKind.OPEN)}) == 3


async def test_one_message_reaches_many_streams_in_order(world: World) -> None:
    calls = [await world.open() for _ in range(3)]
    ids = [stream for _, stream in calls]

    for text in (b"one", b"two", b"three"):
        waiting = ids
        while waiting:
            before = len(world.of(EventKind.WRITABLE))
            waiting = world.transport.send(waiting, text)
            if waiting:
                await eventually(partial(world.was_writable, before + len(waiting)), "they are writable again")

    for call, _ in calls:
        assert [await call.read() for _ in range(3)] == [b"one", b"two", b"three"]


async def test_a_stream_that_holds_an_unsent_message_refuses_and_says_once_when_it_is_free(world: World) -> None:
    call, stream = await world.open()

    assert world.transport.send([stream], b"first") == []
    assert world.transport.send([stream], b"second") == [stream]
    assert world.transport.send([stream], b"third") == [stream]
    await eventually(lambda: world.of(EventKind.WRITABLE), "it becomes writable")
    assert world.transport.send([stream], b"fourth") == []

    assert [await call.read(), await call.read()] == [b"first", b"fourth"]
    assert len(world.of(EventKind.WRITABLE)) == 1


async def test_a_reader_that_stalls_is_not_sent_more_than_its_window(world: World) -> None:
    """Memory stays bounded: sooner or later `send` refuses and stays refusing until the client reads."""
    call, stream = await world.open()
    block = b"x" * (1 << 20)
    loop = asyncio.get_running_loop()
    accepted, last = 0, loop.time()
    while accepted < 64 and loop.time() - last < 0.5:
        if world.transport.send([stream], block) == []:
            accepted, last = accepted + 1, loop.time()
        await asyncio.sleep(0)

    assert accepted < 64
    first: bytes = await call.read()  # type: ignore[assignment]
    assert len(first) == len(block)


async def test_a_paused_stream_is_not_read_from_and_goes_on_in_order(world: World) -> None:
    call, stream = await world.open()
    await eventually(lambda: world.of(EventKind.MESSAGE), "the first message has come")
    other, other_id = await world.open()

    world.transport.pause([stream, 10_000])
    world.transport.pause([stream])
    for text in (b"one", b"two", b"three"):
        await call.write(text)
    await other.write(b"not paused")
    await eventually(lambda: b"not paused" in world.messages(other_id), "the other stream is read from")
    assert world.messages(stream) == [b"hello"]

    world.transport.resume([stream, 10_000])
    await eventually(lambda: len(world.messages(stream)) == 4, "the rest comes")
    assert world.messages(stream) == [b"hello", b"one", b"two", b"three"]


async def test_flow_control_holds_the_client_of_a_paused_stream(world: World) -> None:
    """What it may send before that is its window, not all that it likes: memory stays bounded."""
    call, stream = await world.open()
    await eventually(lambda: world.of(EventKind.MESSAGE), "the first message has come")
    world.transport.pause([stream])
    written = 0

    async def flood() -> None:
        nonlocal written
        while written < 64:
            await call.write(b"x" * (1 << 20))
            written += 1

    flooding = asyncio.create_task(flood())
    seen = -1
    while seen < written:
        seen = written
        await asyncio.wait([flooding], timeout=0.5)
    assert written < 64

    world.transport.resume([stream])
    await eventually(lambda: written == 64, "the client goes on", 20)
    await flooding


async def test_a_paused_stream_can_be_written_to_and_closes(world: World) -> None:
    call, stream = await world.open()
    world.transport.pause([stream])

    world.transport.send([stream], b"go on")
    assert await call.read() == b"go on"
    call.cancel()

    await eventually(lambda: world.of(EventKind.CLOSED), "the close is reported")


async def test_closing_gives_the_client_the_status_after_the_data(world: World) -> None:
    call, stream = await world.open()

    world.transport.send([stream], b"last words")
    world.transport.close([stream], grpc.StatusCode.INVALID_ARGUMENT.value[0], "node.id is empty")

    assert await call.read() == b"last words"
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await call.details() == "node.id is empty"
    await eventually(lambda: world.of(EventKind.CLOSED), "the close is reported")
    assert len(world.of(EventKind.CLOSED)) == 1


async def test_nothing_is_raised_for_streams_that_have_gone(world: World) -> None:
    call, stream = await world.open()
    call.cancel()
    await eventually(lambda: world.of(EventKind.CLOSED), "it has gone")

    assert world.transport.send([stream, 10_000], b"late") == []
    world.transport.close([stream, 10_000], 0, "")


async def test_a_client_that_has_finished_sending_still_receives(world: World) -> None:
    call, stream = await world.open()
    await call.done_writing()
    await eventually(lambda: world.of(EventKind.HALF_CLOSED), "the half close is reported")

    world.transport.send([stream], b"still here")

    assert await call.read() == b"still here"
    assert not world.of(EventKind.CLOSED)


async def test_stopping_tells_clients_to_come_back(world: World) -> None:
    call, _ = await world.open()

    await world.transport.stop(2)

    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert len(world.of(EventKind.CLOSED)) == 1


async def test_a_taken_address_is_an_error_that_names_it(world: World) -> None:
    with pytest.raises(OSError, match=world.address):
        await world.transport.listen(world.address, None)


def credentials(authority: Authority, own: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    """What a client trusts, and its own certificate if it has one."""
    cert, key = (f.read_bytes() for f in own) if own else (None, None)
    return grpc.ssl_channel_credentials(authority.file.read_bytes(), key, cert)


async def is_let_in(world: World, address: str, credentials: grpc.ChannelCredentials) -> bool:
    """Whether a new connection comes so far that the server sees a stream."""
    known = len(world.of(EventKind.OPEN))
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        call: Call = channel.stream_stream(PATH)()
        try:
            await call.write(b"hello")
        except grpc.aio.AioRpcError:
            return False
        await eventually(lambda: len(world.of(EventKind.OPEN)) > known, "the stream is open")
        call.cancel()
        return True


async def test_certificates_may_change(world: World, tmp_path: Path) -> None:
    """Each connection is asked for what there is now; the streams of those before go on."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    configs = [TLSConfig(*(f.read_bytes() for f in a.issue(f"server-of-{a.file.stem}"))) for a in (old, new)]
    now = configs[0]
    address = await world.transport.listen("127.0.0.1:0", lambda: now)
    assert await is_let_in(world, address, credentials(old))
    assert not await is_let_in(world, address, credentials(new))
    channel = grpc.aio.secure_channel(address, credentials(old))
    world.channels.append(channel)
    call: Call = channel.stream_stream(PATH)()
    await call.write(b"before")

    now = configs[1]
    assert await is_let_in(world, address, credentials(new))
    assert not await is_let_in(world, address, credentials(old))
    await call.write(b"after")
    await eventually(lambda: b"after" in [e.message for e in world.of(EventKind.MESSAGE)], "it still says something")


async def test_clients_may_need_a_certificate(world: World, tmp_path: Path) -> None:
    """With one of another authority, or none, they do not get in; the core is told the name in theirs."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    cert, key = (f.read_bytes() for f in authority.issue("server"))
    config = TLSConfig(cert, key, authority.file.read_bytes())
    address = await world.transport.listen("127.0.0.1:0", lambda: config)
    own = authority.issue("client", "URI:spiffe://mesh/web")

    assert not await is_let_in(world, address, credentials(authority))
    assert not await is_let_in(world, address, credentials(authority, other.issue("stranger")))
    assert await is_let_in(world, address, credentials(authority, own))
    assert world.of(EventKind.OPEN)[-1].tls_identity == "spiffe://mesh/web"
