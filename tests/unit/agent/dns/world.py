"""A DNS with some names of a mesh, and ways to ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.message
import dns.rdatatype
from dns.message import Message
from prometheus_client import CollectorRegistry

from isthmus.agent.dns.config import Address, DnsConfig
from isthmus.agent.dns.resolv import ResolvConf
from isthmus.agent.dns.server import DnsServer
from isthmus.agent.dns.table import NameTable, Record, read
from isthmus.agent.duration import Duration

SHARED, OWN = "127.64.0.1", "127.64.3.7"
NAMES = (
    Record("reviews.default.mesh", (SHARED,), (("http", 9080), ("admin", 9090))),
    Record("reviews.default", (SHARED,), (("http", 9080), ("admin", 9090))),
    Record("reviews", (SHARED,), (("http", 9080), ("admin", 9090))),
    Record("reviews.service.consul", (SHARED,), (("http", 9080),)),
    Record("db.default.mesh", (OWN, "fd00::7"), (("mysql", 3306),)),
    Record("six.default.mesh", ("fd00::6",)),
    Record("*.shop.example", (SHARED,)),
)


def table(records: Iterable[Record] = NAMES) -> NameTable:
    return NameTable.of(map(read, records))


class World:
    """One server that runs; its upstreams answer within 0.2 s or not at all."""

    def __init__(self, server: DnsServer, registry: CollectorRegistry) -> None:
        self.server = server
        self.registry = registry

    @property
    def address(self) -> Address:
        return self.server.addresses[0]

    async def ask(self, name: str, kind: str = "A", protocol: str = "udp", **options: object) -> Message:
        """The answer to a question, as another library reads it."""
        query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
        send = dns.asyncquery.udp if protocol == "udp" else dns.asyncquery.tcp
        return await send(query, self.address.host, 5, self.address.port)

    async def addresses(self, name: str, kind: str = "A", protocol: str = "udp") -> list[str]:
        return records(await self.ask(name, kind, protocol))

    async def raw(self, data: bytes, timeout: float = 5) -> bytes:
        """What comes back for these bytes."""
        loop = asyncio.get_running_loop()
        got: asyncio.Future[bytes] = loop.create_future()

        class Once(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                if not got.done():
                    got.set_result(data)

        transport, _ = await loop.create_datagram_endpoint(Once, remote_addr=self.address)
        try:
            transport.sendto(data)
            async with asyncio.timeout(timeout):
                return await got
        finally:
            transport.close()
            await asyncio.sleep(0)

    def count(self, result: str, protocol: str = "udp") -> float:
        labels = {"protocol": protocol, "result": result}
        return self.registry.get_sample_value("isthmus_agent_dns_queries_total", labels) or 0


def records(answer: Message) -> list[str]:
    """The answer section, without names and times."""
    return sorted(item.to_text() for rrset in answer.answer for item in rrset)


@asynccontextmanager
async def serving(
    *upstreams: Address,
    names: NameTable | None = table(),  # noqa: B008 - frozen
    listen: tuple[str, ...] = ("127.0.0.1:0",),
    search: tuple[str, ...] = ("corp.example",),
    timeout: float = 0.2,
    resolv: ResolvConf = ResolvConf(),  # noqa: B008 - frozen
    domains: tuple[str, ...] = ("mesh",),
) -> AsyncGenerator[World, None]:
    config = DnsConfig(
        listen=listen,
        upstream=tuple(map(str, upstreams)),
        search=search,
        domains=domains,
        timeout=Duration(timeout),
    )
    registry = CollectorRegistry()
    server = DnsServer(config, names, resolv, registry)
    await server.start()
    try:
        yield World(server, registry)
    finally:
        await server.stop()
