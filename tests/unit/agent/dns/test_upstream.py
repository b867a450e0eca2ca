"""Other names: passed on, checked, and given up on in time."""

from __future__ import annotations

import asyncio
import time

import dns.flags
import dns.message
import dns.rcode
import pytest
from dns.message import Message
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from isthmus.agent.dns import upstream as upstream_module
from isthmus.agent.dns.config import Address, DnsConfig
from isthmus.agent.dns.resolv import ResolvConf
from isthmus.agent.dns.server import DnsServer
from tests.servers.process import free_port
from tests.servers.scripted_dns import ScriptedDns, knows, reply
from tests.unit.agent.dns.world import SHARED, World, records, serving, table
from tests.wait import eventually

WWW = knows(www_example="192.0.2.80")


def big(number: int) -> list[str]:
    return [f"A 192.0.2.{i}" for i in range(number)]


def cut_over_udp(query: Message, protocol: str) -> Message:
    """All addresses over TCP, and only a hint at them over UDP."""
    answer = reply(query, *big(150))
    if protocol == "udp":
        answer.answer.clear()
        answer.flags |= dns.flags.TC
    return answer


@pytest.fixture
def nobody() -> Address:
    """Nothing listens there, and the kernel says so."""
    return Address("127.0.0.1", free_port())


async def test_an_answer_is_passed_on_as_it_is() -> None:
    """What signs it, how it is, what it says beside."""
    seen = []

    def script(query: Message, _protocol: str) -> Message:
        seen.append(query)
        answer = reply(
            query, "A 192.0.2.1", "A 192.0.2.2", "RRSIG A 8 2 60 20300101000000 20200101000000 1 example. AAAA"
        )
        answer.flags |= dns.flags.AD
        return answer

    async with ScriptedDns(script) as upstream, serving(upstream.address) as world:
        answer = await world.ask("www.Example", use_edns=0, want_dnssec=True, flags=dns.flags.RD | dns.flags.CD)

        assert len(records(answer)) == 3
        assert answer.flags & dns.flags.AD
        assert str(answer.question[0].name) == "www.Example."
        assert seen[0].ednsflags & dns.flags.DO
        assert seen[0].flags & dns.flags.CD
        assert seen[0].payload == 1232


async def test_each_question_leaves_from_a_port_and_under_an_id_of_its_own() -> None:
    async with ScriptedDns(WWW) as upstream, serving(upstream.address) as world:
        for _ in range(20):
            await world.ask("www.example")

        assert len({port for _, port in upstream.peers}) > 10
        assert len({query.id for _, query in upstream.asked}) > 10


async def test_forged_answers_are_passed_over() -> None:
    """Another id, another question, and the right bytes from another server; then the true one."""

    async with ScriptedDns(WWW) as stranger, ScriptedDns(WWW) as upstream:

        def script(query: Message, _protocol: str) -> Message:
            peer = upstream.peers[-1]
            wrong_id, wrong_name, right = (
                reply(query, "A 203.0.113.1"),
                reply(query, "A 203.0.113.2"),
                reply(query, "A 203.0.113.3"),
            )
            wrong_id.id = query.id ^ 1
            wrong_name.question = dns.message.make_query("www.examplf", "A").question
            question = query.to_wire()
            for forged in (wrong_id.to_wire(), wrong_name.to_wire(), question, b"", b"x" * 11):
                upstream.send(forged, peer)
            stranger.send(right.to_wire(), peer)
            return reply(query, "A 192.0.2.80")

        upstream.script = script
        async with serving(upstream.address) as world:
            assert await world.addresses("www.example") == ["192.0.2.80"]


async def test_the_same_question_is_asked_once_while_it_is_open() -> None:
    """And everybody gets the answer under the id, and in the letters, of their own question."""
    async with ScriptedDns(WWW) as upstream, serving(upstream.address, timeout=2) as world:
        upstream.silent = True
        asking = [asyncio.create_task(world.ask(name)) for name in ["www.example", "WWW.example"] * 10]
        await eventually(lambda: upstream.asked, "it is asked")
        await eventually(lambda: len(world.server._waiting) == 20, "all wait")
        _, query = upstream.asked[0]
        upstream.send(reply(query, "A 192.0.2.80").to_wire(), upstream.peers[0])

        for answer in await asyncio.gather(*asking):
            assert records(answer) == ["192.0.2.80"]
        assert len(upstream.asked) == 1


async def test_the_next_one_is_asked_when_one_is_silent_refuses_or_does_not_know() -> None:
    async with ScriptedDns(WWW) as second, ScriptedDns(WWW) as first, serving(first.address, second.address) as world:
        await eventually(lambda: first.seen, "it was found to be there")
        first.silent = True
        assert await world.addresses("www.example") == ["192.0.2.80"]
        first.silent = False
        for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):

            def script(query: Message, _protocol: str, rcode: dns.rcode.Rcode = rcode) -> Message:
                answer = reply(query)
                answer.set_rcode(rcode)
                return answer

            first.script = script
            assert await world.addresses("www.example") == ["192.0.2.80"]
            second.script = script
            assert (await world.ask("www.example")).rcode() == rcode
            second.script = WWW
        assert world.server.problems() == []


async def test_a_name_that_does_not_exist_is_not_asked_of_others() -> None:
    async with (
        ScriptedDns(WWW) as second,
        ScriptedDns(knows()) as first,
        serving(first.address, second.address) as world,
    ):
        assert (await world.ask("www.example")).rcode() == dns.rcode.NXDOMAIN
        assert second.asked == []


async def test_one_lost_question_is_repeated() -> None:
    async with ScriptedDns(WWW) as upstream, serving(upstream.address) as world:
        upstream.script = lambda query, protocol: WWW(query, protocol) if len(upstream.asked) > 1 else None
        assert await world.addresses("www.example") == ["192.0.2.80"]


async def test_what_is_cut_off_is_fetched_over_tcp_for_who_can_take_it() -> None:
    async with ScriptedDns(cut_over_udp) as upstream, serving(upstream.address) as world:
        assert len(await world.addresses("www.example", protocol="tcp")) == 150
        assert len(records(await world.ask("www.example", use_edns=0, payload=4096))) == 150
        assert upstream.asked[-1][0] == "tcp"
        for payload in (512, 1232):
            short = await world.ask("www.example", use_edns=0, payload=payload)
            assert short.flags & dns.flags.TC
            assert upstream.asked[-1][0] == "udp"
        assert (await world.ask("www.example")).flags & dns.flags.TC


async def test_more_than_a_client_can_take_is_cut_off_for_it() -> None:
    """An upstream that sends too much does not make us do so."""

    def script(query: Message, _protocol: str) -> bytes:
        return reply(query, *big(60)).to_wire(max_size=65535)

    async with ScriptedDns(script) as upstream, serving(upstream.address) as world:
        answer = await world.ask("www.example")
        assert answer.flags & dns.flags.TC
        assert answer.answer == []
        assert len(records(await world.ask("www.example", use_edns=0, payload=1232))) == 60


async def test_a_dead_upstream_is_given_up_on_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first questions wait for it; those after them do not. Names of the mesh are answered all the time."""
    monkeypatch.setattr(upstream_module, "FIRST_RETRY", 0.05)
    async with ScriptedDns(WWW) as upstream, serving(upstream.address) as world:
        up = {"upstream": str(upstream.address)}
        assert world.registry.get_sample_value("isthmus_agent_dns_upstream_up", up) == 1
        upstream.silent = True
        with capture_logs() as logs:
            assert (await world.ask("www.example")).rcode() == dns.rcode.SERVFAIL
        assert "dns.upstream_down" in {entry["event"] for entry in logs}

        began = time.monotonic()
        assert (await world.ask("other.example")).rcode() == dns.rcode.SERVFAIL
        assert await world.addresses("reviews") == [SHARED]
        assert time.monotonic() - began < 0.1
        assert "other.example." not in upstream.names
        assert world.registry.get_sample_value("isthmus_agent_dns_upstream_up", up) == 0
        assert any(f"{upstream.address} does not answer: no answer in time" in p for p in world.server.problems())
        assert world.count("upstream_failed") == 2

        upstream.silent = False
        await eventually(lambda: not world.server.problems(), "it is known to be back")
        assert await world.addresses("www.example") == ["192.0.2.80"]


async def test_an_upstream_that_is_not_there_costs_no_time(nobody: Address) -> None:
    async with ScriptedDns(WWW) as second, serving(nobody, second.address, timeout=10) as world:
        began = time.monotonic()
        assert await world.addresses("www.example") == ["192.0.2.80"]
        assert time.monotonic() - began < 2
        await eventually(lambda: any("Connection refused" in p for p in world.server.problems()), "it is said")


async def test_an_upstream_on_an_interface_that_is_not_there_is_left_out() -> None:
    async with ScriptedDns(WWW) as upstream:
        with capture_logs() as logs:
            async with serving(Address("fe80::1%nowhere0", 53), upstream.address) as world:
                assert await world.addresses("www.example") == ["192.0.2.80"]
        assert "dns.upstream_left_out" in {entry["event"] for entry in logs}


async def test_without_an_upstream_only_the_mesh_is_answered() -> None:
    async with serving() as world:
        assert (await world.ask("www.example")).rcode() == dns.rcode.SERVFAIL
        assert await world.addresses("reviews") == [SHARED]
        assert any("no upstream" in problem for problem in world.server.problems())


async def test_it_does_not_ask_itself() -> None:
    """After resolv.conf was made to name it, that is what it finds there."""
    port = free_port()
    own = Address("127.0.0.1", port)
    async with ScriptedDns(WWW) as upstream:
        resolv = ResolvConf((own, upstream.address))
        async with serving(listen=(str(own),), resolv=resolv) as world:
            assert await world.addresses("www.example") == ["192.0.2.80"]
            assert world.server.problems() == []


async def test_an_upstream_that_asks_us_in_its_turn_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another forwarder between: questions end, and the operator reads why; when it asks others, it is used."""
    monkeypatch.setattr(upstream_module, "LOOP_RETRY", 0.05)
    async with ScriptedDns(WWW) as forwarder:
        config = DnsConfig(listen=("127.0.0.1:0",), upstream=(str(forwarder.address),))
        registry = CollectorRegistry()
        server = DnsServer(config, table(), ResolvConf(), registry)
        server_there = asyncio.Event()
        original = forwarder.datagram_received

        def ask_back(data: bytes, addr: object) -> None:
            async def relay() -> None:
                await server_there.wait()
                world = World(server, registry)
                answer = await world.raw(data)
                forwarder.send(answer, addr)

            relays.append(asyncio.create_task(relay()))

        relays: list[asyncio.Task[None]] = []
        monkeypatch.setattr(forwarder, "datagram_received", ask_back)
        await server.start()
        server_there.set()
        try:
            await eventually(
                lambda: any("asks this DNS in its turn" in p for p in server.problems()), "it is found out"
            )
            world = World(server, registry)
            began = time.monotonic()
            assert (await world.ask("www.example")).rcode() == dns.rcode.SERVFAIL
            assert time.monotonic() - began < 1
            assert world.count("overloaded") == 0

            monkeypatch.setattr(forwarder, "datagram_received", original)
            await eventually(lambda: not server.problems(), "it is used again")
            assert await world.addresses("www.example") == ["192.0.2.80"]
        finally:
            await asyncio.gather(*relays, return_exceptions=True)
            await server.stop()


async def test_a_question_that_comes_back_is_about_a_name_that_nobody_has() -> None:
    """A resolver on this machine asks us for some names, and is asked by us for all others."""
    async with ScriptedDns(WWW) as forwarder, serving(forwarder.address, timeout=2) as world:

        def script(query: Message, _protocol: str) -> bytes | None:
            if str(query.question[0].name) == "www.example.":
                return reply(query, "A 192.0.2.80").to_wire()

            async def relay() -> None:
                forwarder.send(await World(world.server, world.registry).raw(query.to_wire()), forwarder.peers[-1])

            relays.append(asyncio.create_task(relay()))
            return None

        relays: list[asyncio.Task[None]] = []
        forwarder.script = script
        began = time.monotonic()
        assert (await world.ask("typo")).rcode() == dns.rcode.NXDOMAIN
        assert (await world.ask("gone.service.consul", use_edns=0)).rcode() == dns.rcode.NXDOMAIN
        assert time.monotonic() - began < 1
        assert world.server.problems() == []
        await asyncio.gather(*relays)


@pytest.mark.parametrize("records", [1, 40])
async def test_who_does_not_know_edns_is_not_answered_with_it(records: int) -> None:
    """Although the question carried a mark in an EDNS option."""
    async with (
        ScriptedDns(lambda query, _: reply(query, *big(records))) as upstream,
        serving(upstream.address) as world,
    ):
        answer = await world.ask("www.example")
        assert answer.edns == -1
        assert upstream.asked[0][1].edns == 0
        assert upstream.asked[0][1].payload == 512
        assert bool(answer.flags & dns.flags.TC) == (records == 40)


async def test_open_questions_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond are told at once, and the mesh is answered all the time."""
    monkeypatch.setattr(upstream_module, "MAX_OPEN", 3)
    async with ScriptedDns(WWW) as upstream, serving(upstream.address, timeout=2) as world:
        upstream.silent = True
        asking = [asyncio.create_task(world.ask(f"{i}.example")) for i in range(3)]
        await eventually(lambda: len(upstream.asked) == 3, "three are open")

        assert (await world.ask("4.example")).rcode() == dns.rcode.SERVFAIL
        assert await world.addresses("reviews") == [SHARED]
        assert world.count("overloaded") == 1
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
