"""What programs on the machine are told about the names of the mesh."""

from __future__ import annotations

import asyncio
import random
import socket
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from prometheus_client import CollectorRegistry

from isthmus.agent.dns import server as server_module
from isthmus.agent.dns import tcp
from isthmus.agent.dns.config import DnsConfig
from isthmus.agent.dns.resolv import ResolvConf
from isthmus.agent.dns.server import DnsServer, ListenError
from isthmus.agent.dns.table import Record
from tests.servers.scripted_dns import ScriptedDns, knows
from tests.unit.agent.dns.world import OWN, SHARED, World, records, serving, table
from tests.wait import eventually


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
async def test_addresses_of_a_service_by_each_of_its_names(protocol: str) -> None:
    async with serving() as world:
        for name in ("reviews", "reviews.default", "reviews.default.mesh", "reviews.service.consul"):
            assert await world.addresses(name, protocol=protocol) == [SHARED]
        assert await world.addresses("db.default.mesh", "AAAA", protocol) == ["fd00::7"]


async def test_an_answer_says_whose_it_is_and_how_long_it_holds() -> None:
    async with serving() as world:
        answer = await world.ask("reviews.default.mesh")

        assert answer.flags & dns.flags.AA
        assert answer.flags & dns.flags.RA
        assert answer.answer[0].ttl == 30


async def test_letters_come_back_as_they_were_asked() -> None:
    """Resolvers mix capital letters in, to tell forged answers."""
    async with serving() as world:
        for name in ("ReViEwS.dEfAuLt.mEsH", "reviews.default.mesh", "REVIEWS.DEFAULT.MESH"):
            answer = await world.ask(name)
            assert records(answer) == [SHARED]
            assert str(answer.question[0].name) == name + "."
            assert str(answer.answer[0].name) == name + "."


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "MX", "HTTPS", "PTR"])
async def test_other_records_of_a_name_of_the_mesh_are_none_and_asked_of_nobody(kind: str) -> None:
    async with ScriptedDns(knows()) as upstream, serving(upstream.address) as world:
        answer = await world.ask("reviews.service.consul", kind)

        assert answer.rcode() == dns.rcode.NOERROR
        assert answer.answer == []
        assert answer.authority[0].rdtype == dns.rdatatype.SOA
        assert upstream.asked == []


async def test_addresses_are_of_the_kind_that_was_asked_for() -> None:
    async with serving() as world:
        assert await world.addresses("six.default.mesh", "A") == []
        assert await world.addresses("six.default.mesh", "AAAA") == ["fd00::6"]
        assert await world.addresses("six.default.mesh", "ANY") == ["fd00::6"]
        assert await world.addresses("db.default.mesh", "ANY") == [OWN]


async def test_ports_by_name_and_all_of_them() -> None:
    """SRV, with the addresses of the target beside it."""
    async with serving() as world:
        answer = await world.ask("_http._tcp.reviews.default.mesh", "SRV")
        assert records(answer) == ["0 0 9080 reviews.default.mesh."]
        assert [(str(r.name), [i.to_text() for i in r]) for r in answer.additional] == [
            ("reviews.default.mesh.", [SHARED])
        ]
        both = await world.ask("reviews.default.mesh", "SRV")
        assert records(both) == ["0 0 9080 reviews.default.mesh.", "0 0 9090 reviews.default.mesh."]
        mysql = await world.ask("_MySQL._tcp.db.default.mesh", "SRV")
        assert records(mysql) == ["0 0 3306 db.default.mesh."]
        assert sorted(i.to_text() for r in mysql.additional for i in r) == [OWN, "fd00::7"]


@pytest.mark.parametrize("name", ["_grpc._tcp.reviews", "_http._udp.reviews", "_grpc_config.reviews.service.consul"])
async def test_ports_that_a_service_does_not_have_do_not_exist_anywhere(name: str) -> None:
    async with ScriptedDns(knows()) as upstream, serving(upstream.address) as world:
        assert (await world.ask(name, "SRV")).rcode() == dns.rcode.NXDOMAIN
        assert upstream.asked == []


async def test_what_is_below_the_meshs_domain_is_the_meshs_to_deny() -> None:
    """A name that nothing has but something is below exists, without records."""
    async with ScriptedDns(knows()) as upstream, serving(upstream.address) as world:
        gone = await world.ask("gone.default.mesh")
        assert gone.rcode() == dns.rcode.NXDOMAIN
        assert str(gone.authority[0].name) == "mesh."
        for name in ("default.mesh", "mesh"):
            assert (await world.ask(name)).rcode() == dns.rcode.NOERROR
        assert upstream.asked == []


async def test_names_that_are_not_the_meshs_are_somebody_elses() -> None:
    async with ScriptedDns(knows(www_example="192.0.2.80")) as upstream, serving(upstream.address) as world:
        assert await world.addresses("www.example") == ["192.0.2.80"]
        assert (await world.ask("gone.service.consul")).rcode() == dns.rcode.NXDOMAIN
        assert upstream.names == ["www.example.", "gone.service.consul."]


async def test_a_search_domain_behind_a_name_is_taken_away() -> None:
    async with ScriptedDns(knows(other_corp_example="192.0.2.9")) as upstream, serving(upstream.address) as world:
        answer = await world.ask("Reviews.corp.example")
        assert records(answer) == [SHARED]
        assert str(answer.answer[0].name) == "Reviews.corp.example."
        assert await world.addresses("reviews.default.mesh.corp.example") == [SHARED]
        assert await world.addresses("other.corp.example") == ["192.0.2.9"]
        srv = await world.ask("_http._tcp.reviews.corp.example", "SRV")
        assert records(srv) == ["0 0 9080 reviews.corp.example."]


async def test_search_domains_are_those_of_the_machine_unless_others_are_named() -> None:
    resolv = ResolvConf(search=("lan",))
    for config, wanted in ((DnsConfig(listen=("127.0.0.1:0",)), [SHARED]), (None, [])):
        server = DnsServer(
            config or DnsConfig(listen=("127.0.0.1:0",), search=()), table(), resolv, CollectorRegistry()
        )
        await server.start()
        world = World(server, CollectorRegistry())
        assert await world.addresses("reviews.lan") == wanted
        await server.stop()


async def test_a_wildcard_stands_for_any_prefix() -> None:
    async with serving() as world:
        for name in ("a.shop.example", "a.b.shop.example"):
            answer = await world.ask(name)
            assert records(answer) == [SHARED]
            assert str(answer.answer[0].name) == name + "."


async def test_before_the_names_are_known_the_mesh_is_not_denied() -> None:
    """A caller would remember that a name does not exist."""
    www = knows(www_example="192.0.2.80")
    async with ScriptedDns(www) as upstream, serving(upstream.address, names=None) as world:
        assert (await world.ask("reviews.default.mesh")).rcode() == dns.rcode.SERVFAIL
        assert await world.addresses("www.example") == ["192.0.2.80"]
        assert any("no names of the mesh" in problem for problem in world.server.problems())
        assert world.count("not_synced") == 1

        world.server.replace(table())

        assert await world.addresses("reviews.default.mesh") == [SHARED]
        assert world.server.problems() == []


async def test_another_table_is_answered_from_at_once() -> None:
    async with serving() as world:
        assert await world.addresses("reviews.default.mesh") == [SHARED]
        world.server.replace(table([Record("reviews.default.mesh", (OWN,))]))
        assert await world.addresses("reviews.default.mesh") == [OWN]
        assert (await world.ask("db.default.mesh")).rcode() == dns.rcode.NXDOMAIN


async def test_an_answer_that_does_not_fit_says_so_and_is_whole_over_tcp() -> None:
    many = tuple(f"127.64.1.{i}" for i in range(1, 61))
    async with serving(names=table([Record("big.default.mesh", many)])) as world:
        short = await world.ask("big.default.mesh")
        assert short.flags & dns.flags.TC
        assert short.answer == []
        assert len(records(await world.ask("big.default.mesh", use_edns=0, payload=1232))) == 60
        assert len(await world.addresses("big.default.mesh", protocol="tcp")) == 60


async def test_edns_is_answered_with_edns() -> None:
    async with serving() as world:
        answer = await world.ask("reviews", use_edns=0, want_dnssec=True)
        assert (answer.edns, answer.payload) == (0, 1232)
        assert answer.ednsflags & dns.flags.DO
        assert (await world.ask("reviews")).edns == -1
        assert (await world.ask("reviews", use_edns=1)).rcode() == dns.rcode.BADVERS


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
async def test_other_classes_and_whole_zones_are_refused(protocol: str) -> None:
    async with serving() as world:
        chaos = await world.ask("version.bind", "TXT", protocol, rdclass="CH")
        assert chaos.rcode() == dns.rcode.REFUSED
        query = dns.message.make_query("mesh", "AXFR")
        assert dns.message.from_wire(await world.raw(query.to_wire())).rcode() == dns.rcode.REFUSED


async def test_what_is_no_question_gets_an_error_or_nothing() -> None:
    query = dns.message.make_query("reviews", "A").to_wire()
    async with serving() as world:
        update = query[:2] + struct.pack(">H", 5 << 11) + query[4:]
        assert dns.message.from_wire(await world.raw(update)).rcode() == dns.rcode.NOTIMP
        for bytes_ in (query[:-1], query + b"x", query[:4] + b"\0\2" + query[6:], query[:12] + b"\xc0\x0c\0\1\0\1"):
            assert dns.message.from_wire(await world.raw(bytes_)).rcode() == dns.rcode.FORMERR
        answer = query[:2] + b"\x80" + query[3:]
        for bytes_ in (b"x" * 11, answer):
            with pytest.raises(TimeoutError):
                await world.raw(bytes_, timeout=0.1)
        assert world.count("malformed") == 7
        assert await world.addresses("reviews") == [SHARED]


async def test_several_questions_of_one_connection_are_answered_as_they_are_ready() -> None:
    """The one that an upstream has to think about does not stop the other."""
    async with ScriptedDns(knows()) as upstream, serving(upstream.address, timeout=2) as world:
        upstream.silent = True
        slow, quick = dns.message.make_query("www.example", "A"), dns.message.make_query("reviews", "A")
        reader, writer = await asyncio.open_connection(*world.address)
        for query in (slow, quick):
            data = query.to_wire()
            writer.write(len(data).to_bytes(2) + data)

        async with asyncio.timeout(1):
            first = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))

        assert dns.message.from_wire(first).id == quick.id
        writer.close()
        await writer.wait_closed()


async def test_who_has_only_stopped_asking_gets_the_answers() -> None:
    async with ScriptedDns(knows(www_example="192.0.2.80")) as upstream, serving(upstream.address) as world:
        data = dns.message.make_query("www.example", "A").to_wire()
        reader, writer = await asyncio.open_connection(*world.address)
        writer.write(len(data).to_bytes(2) + data)
        writer.write_eof()

        async with asyncio.timeout(5):
            answer = dns.message.from_wire((await reader.read())[2:])

        assert records(answer) == ["192.0.2.80"]
        writer.close()
        await writer.wait_closed()


async def test_connections_are_limited_and_too_long_questions_end_one() -> None:
    async with serving() as world:
        reader, writer = await asyncio.open_connection(*world.address)
        writer.write(b"\xff\xff")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

        opened = [await asyncio.open_connection(*world.address) for _ in range(tcp.MAX_CONNECTIONS + 1)]
        await eventually(lambda: world.count("dropped", "tcp") >= 1, "one too many is closed")
        for _, writer in opened:
            writer.close()
        assert await world.addresses("reviews") == [SHARED]
        await eventually(lambda: _connects(world), "a place is free again")


async def test_a_connection_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "IDLE", 0.05)
    async with serving() as world:
        for said in (b"", b"\0", b"\0\x1d\1\2\1"):
            reader, writer = await asyncio.open_connection(*world.address)
            writer.write(said)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


async def test_noise_does_no_harm() -> None:
    """Random bytes, and questions with random changes, over both protocols; then it answers as before."""
    query = dns.message.make_query("reviews", "A", use_edns=0, payload=1232).to_wire()
    noise = random.Random(7)
    async with serving() as world:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(500):
                data = bytearray(query if noise.random() < 0.7 else noise.randbytes(noise.randint(0, 1400)))
                for _ in range(noise.randint(0, 4) if data else 0):
                    data[noise.randrange(len(data))] = noise.randrange(256)
                sock.sendto(data, world.address)
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*world.address)
            writer.write(noise.randbytes(200))
            writer.write_eof()
            async with asyncio.timeout(5):
                await reader.read()
            writer.close()
            await writer.wait_closed()
        for protocol in ("udp", "tcp"):
            assert await world.addresses("reviews", protocol=protocol) == [SHARED]
        assert world.count("malformed") > 100


async def _connects(world: World) -> bool:
    return await world.addresses("reviews", protocol="tcp") == [SHARED]


async def test_it_listens_on_ipv6_too() -> None:
    async with serving(listen=("127.0.0.1:0", "[::1]:0")) as world:
        for address in world.server.addresses:
            query = dns.message.make_query("reviews", "A")
            for send in (dns.asyncquery.udp, dns.asyncquery.tcp):
                assert records(await send(query, address.host, 5, address.port)) == [SHARED]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_port_that_is_taken_is_named(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ListenError, match=rf"cannot listen on 127.0.0.1:{port} .*another program has it"):
            async with serving(listen=(f"127.0.0.1:{port}",)):
                pass


async def test_many_questions_at_once_are_all_answered() -> None:
    """More than one batch, and more than are kept encoded."""
    async with serving() as world:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(world.address)
            query = dns.message.make_query("reviews", "A").to_wire()
            number = server_module.BATCH * 3
            for i in range(number):
                sock.send(i.to_bytes(2) + query[2:])
            ids: set[int] = set()
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(5):
                while len(ids) < number:
                    ids.add(int.from_bytes((await loop.sock_recv(sock, 512))[:2]))
        assert ids == set(range(number))
        assert world.count("answered") == number
