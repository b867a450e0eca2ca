"""How the mesh's names come from the bridge, and what is left of them without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from envoy.data.dns.v3.dns_table_pb2 import DnsTable
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from isthmus.agent.dns import names as names_module
from isthmus.agent.dns.metrics import DnsMetrics
from isthmus.agent.dns.names import Names, to_node
from isthmus.agent.dns.parse import parse
from isthmus.agent.dns.table import NameTable, RecordError
from isthmus.agent.dns.wire import to_wire
from isthmus.xds.resource import TypeUrl
from tests.servers.scripted_xds import ScriptedXds
from tests.wait import eventually

Domain = DnsTable.DnsVirtualDomain


def mk_resource(names: Mapping[str, str], ports: Mapping[str, int] | None = None) -> bytes:
    """Names with one address each, and the ports of all of them."""
    addresses = [
        Domain(name=name, endpoint=DnsTable.DnsEndpoint(address_list=DnsTable.AddressList(address=[address])))
        for name, address in names.items()
    ]
    services = [
        DnsTable.DnsService(
            service_name=port_name,
            protocol=DnsTable.DnsServiceProtocol(name="tcp"),
            targets=[DnsTable.DnsServiceTarget(host_name=next(iter(names)), port=port)],
        )
        for port_name, port in (ports or {}).items()
    ]
    ported = Domain(
        name=next(iter(names)),
        endpoint=DnsTable.DnsEndpoint(service_list=DnsTable.DnsServiceList(services=services)),
    )
    return DnsTable(virtual_domains=[*addresses, *([ported] if ports else [])]).SerializeToString()


REVIEWS = mk_resource({"reviews.default.mesh": "127.64.0.1", "reviews": "127.64.0.1"}, {"http": 9080})
RATINGS = mk_resource({"ratings.default.mesh": "127.64.0.1"})


class Follower:
    """Names that are being followed, and the last table."""

    def __init__(self, names: Names, metrics: DnsMetrics, registry: CollectorRegistry) -> None:
        self.names = names
        self.metrics = metrics
        self.registry = registry
        self.table: NameTable | None = None

    def addresses(self, name: str) -> list[str]:
        entry = None if self.table is None else self.table.find(to_wire(name), frozenset())
        return [] if entry is None else [".".join(map(str, a)) for a in entry.ipv4]


@asynccontextmanager
async def following(address: str, directory: Path) -> AsyncIterator[Follower]:
    registry = CollectorRegistry()
    metrics = DnsMetrics(registry)

    def keep(table: NameTable) -> None:
        follower.table = table

    follower = Follower(Names([address], to_node("vm-1", "reviews"), directory, keep, metrics), metrics, registry)
    follower.names.restore()
    task = asyncio.create_task(follower.names.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(names_module, "SAVE_AFTER", 0.01)


async def test_names_are_asked_for_as_a_whole_and_acknowledged(tmp_path: Path) -> None:
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge, following(bridge.address, tmp_path) as follower:
        first = await bridge.first()
        assert first.type_url == TypeUrl.DNS_TABLE
        assert list(first.resource_names_subscribe) == ["*"]
        assert (first.node.id, first.node.user_agent_name) == ("vm-1/dns", "isthmus-agent")
        assert not follower.names.synced

        accepted = await bridge.settled(bridge.send({"reviews.default.mesh": ("1", REVIEWS)}))

        assert not accepted.HasField("error_detail")
        assert follower.names.synced
        assert follower.names.problems() == []
        assert follower.addresses("reviews") == ["127.64.0.1"]
        assert follower.registry.get_sample_value("isthmus_agent_dns_connected") == 1


async def test_a_mesh_without_services_is_known_to_be_empty(tmp_path: Path) -> None:
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge, following(bridge.address, tmp_path) as follower:
        await bridge.first()
        await bridge.settled(bridge.send())
        assert follower.names.synced
        assert follower.table == NameTable()


async def test_services_come_change_and_go(tmp_path: Path) -> None:
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge, following(bridge.address, tmp_path) as follower:
        await bridge.first()
        bridge.send({"reviews.default.mesh": ("1", REVIEWS), "ratings.default.mesh": ("1", RATINGS)})
        changed = mk_resource({"ratings.default.mesh": "127.64.9.9"})
        await bridge.settled(bridge.send({"ratings.default.mesh": ("2", changed)}, ["reviews.default.mesh"]))

        assert follower.addresses("ratings.default.mesh") == ["127.64.9.9"]
        assert follower.addresses("reviews") == []


async def test_what_cannot_be_answered_is_refused_by_name_and_the_rest_is_taken(tmp_path: Path) -> None:
    """The service keeps the names that it had."""
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge, following(bridge.address, tmp_path) as follower:
        await bridge.first()
        await bridge.settled(bridge.send({"reviews.default.mesh": ("1", REVIEWS)}))
        bad = mk_resource({"reviews.default.mesh": "not an address"})
        with capture_logs() as logs:
            refusal = await bridge.settled(
                bridge.send({"reviews.default.mesh": ("2", bad), "ratings.default.mesh": ("1", RATINGS)})
            )

        assert refusal.error_detail.code == 3
        assert refusal.error_detail.message.startswith("Error adding/updating names reviews.default.mesh: ")
        assert follower.addresses("reviews") == ["127.64.0.1"]
        assert follower.addresses("ratings.default.mesh") == ["127.64.0.1"]
        assert [p.partition(":")[0] for p in follower.names.problems()] == [
            "DNS cannot answer reviews.default.mesh, as the bridge tells it"
        ]
        assert [entry["event"] for entry in logs] == ["dns.names_refused"]

        await bridge.settled(bridge.send({"reviews.default.mesh": ("3", REVIEWS)}))
        assert follower.names.problems() == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff\xff", "no DnsTable"),
        (mk_resource({"a..b": "127.0.0.1"}), "labels of 1 to 63"),
        (mk_resource({"x": "localhost"}), "an address that is none"),
        (mk_resource({f"n{i}": "127.0.0.1" for i in range(1001)}), "1001 names"),
    ],
)
def test_what_is_wrong_with_a_resource_is_said(body: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        parse(body)


def test_ports_belong_to_all_names_of_a_service() -> None:
    ((first, entry), (second, other)) = parse(REVIEWS)
    assert (first, second) == (to_wire("reviews.default.mesh"), to_wire("reviews"))
    assert entry.ports == other.ports == ((b"http", 9080),)


async def test_names_stay_while_the_bridge_is_away_and_only_differences_are_asked_for(tmp_path: Path) -> None:
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge, following(bridge.address, tmp_path) as follower:
        await bridge.first()
        await bridge.settled(bridge.send({"reviews.default.mesh": ("7", REVIEWS)}))
        with capture_logs() as logs:
            await bridge.stop()
            await eventually(follower.names.problems, "it is noticed")
        assert "dns.names_lost" in {entry["event"] for entry in logs}
        assert f"no connection to the bridge at {bridge.address}" in follower.names.problems()[0]
        assert follower.registry.get_sample_value("isthmus_agent_dns_connected") == 0
        assert follower.addresses("reviews") == ["127.64.0.1"]

        await bridge.start()
        again = await bridge.first(1)

        assert dict(again.initial_resource_versions) == {"reviews.default.mesh": "7"}
        assert again.node.id == "vm-1/dns"
        await bridge.settled(bridge.send(removed=["reviews.default.mesh"]))
        assert follower.addresses("reviews") == []
        assert follower.names.problems() == []


async def test_a_stream_that_ends_in_good_order_is_opened_again(tmp_path: Path) -> None:
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge, following(bridge.address, tmp_path) as follower:
        await bridge.first()
        bridge.send({"reviews.default.mesh": ("7", REVIEWS)})
        bridge.hang_up()
        await bridge.first(1)
        assert follower.addresses("reviews") == ["127.64.0.1"]


async def test_a_start_without_the_bridge_answers_what_was_known_last(tmp_path: Path) -> None:
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge:
        async with following(bridge.address, tmp_path) as follower:
            await bridge.first()
            await bridge.settled(bridge.send({"reviews.default.mesh": ("7", REVIEWS)}))
        await bridge.stop()

        async with following(bridge.address, tmp_path) as follower:
            assert follower.addresses("reviews") == ["127.64.0.1"]
            assert not follower.names.synced
            await eventually(lambda: "as they were then" in follower.names.problems()[0], "it is said")
            await bridge.start()
            again = await bridge.first(1)
            assert dict(again.initial_resource_versions) == {"reviews.default.mesh": "7"}


@pytest.mark.parametrize("damage", [b"", b"x" * 100, b"isthmus-dns-names-1 00 0\nx"])
async def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "dns-names").write_bytes(damage)
    async with ScriptedXds(TypeUrl.DNS_TABLE) as bridge, following(bridge.address, tmp_path) as follower:
        assert follower.table is None
        assert len(list(tmp_path.glob("dns-names.damaged-*"))) == 1
        await bridge.first()
        await bridge.settled(bridge.send({"reviews.default.mesh": ("7", REVIEWS)}))
        await eventually((tmp_path / "dns-names").exists, "a good one is written")
