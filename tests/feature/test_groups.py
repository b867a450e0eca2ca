"""What each group of clients is served by one bridge: Envoys by the outbound mode that their node tells, and agents."""

from __future__ import annotations

import pytest
from envoy.data.dns.v3.dns_table_pb2 import DnsTable
from structlog.testing import capture_logs

from isthmus.xds.resource import TypeUrl
from tests.feature.client import CDS, EDS, LDS, RDS
from tests.feature.conftest import World

DNS = TypeUrl.DNS_TABLE
BASE = {"outbound_http", "{db}_5432"}
AT_ADDRESSES = {"127.64.0.1_80", "127.64.0.1_9090", "{db}_9090"}
CLUSTERS = {"outbound|80||web.default.mesh", "outbound|5432||db.default.mesh", "outbound|9090||db.default.mesh"}
DB = """
services:
- name: db
  ports: [{name: tcp, number: 5432, protocol: tcp}, {name: metrics, number: 9090, protocol: http}]
  instances: [{id: db-1, address: 10.0.0.9}]
"""


@pytest.fixture
async def town(world: World) -> World:
    """An HTTP service, and one that has a TCP port as well."""
    world.write("web", "10.0.0.1")
    (world.folder / "db.yaml").write_text(DB)
    await world.started()
    return world


def at_db(world: World, names: set[str]) -> set[str]:
    (address,) = world.bridge.published.virtual_ips.values()
    return {name.format(db=address) for name in names}


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
@pytest.mark.parametrize(
    ("said", "expected", "routes"),
    [
        ("", BASE, {"outbound_http"}),
        ("EXPLICIT", BASE, {"outbound_http"}),
        ("ADDRESSES", BASE | AT_ADDRESSES, {"outbound_http"}),
        (
            "CAPTURED",
            (BASE - {"outbound_http"}) | AT_ADDRESSES | {"0.0.0.0_80", "0.0.0.0_9090"},
            {"outbound_http", "outbound_captured"},
        ),
    ],
)
async def test_an_envoy_has_the_listeners_that_its_node_asks_for(
    town: World, said: str, expected: set[str], routes: set[str], delta: bool
) -> None:
    client = await town.client(outbound=said, delta=delta)
    await client.converge()
    assert set(client.bodies[LDS]) == at_db(town, expected)
    assert set(client.bodies[RDS]) == routes
    assert set(client.bodies[CDS]) == set(client.bodies[EDS]) == CLUSTERS
    assert (await town.proxy())["outbound"] == (said.lower() or "listener")


async def test_a_port_comes_with_its_first_service_and_goes_with_its_last(town: World) -> None:
    client = await town.client(outbound="ADDRESSES")
    await client.converge()
    town.write("more", "10.0.0.3", number=8080)
    while "127.64.0.1_8080" not in client.bodies[LDS]:
        await client.ack(await client.expect())
    (town.folder / "more.yaml").unlink()
    while "127.64.0.1_8080" in client.bodies[LDS]:
        await client.ack(await client.expect())


async def test_a_change_of_instances_is_one_message_for_all_envoys(town: World) -> None:
    """The same bytes, whatever their listeners."""
    clients = [await town.client(node=said or "plain", outbound=said) for said in ("", "ADDRESSES", "CAPTURED")]
    for client in clients:
        await client.converge()
    town.write("web", "10.0.0.1", "10.0.0.2")
    answers = [await client.take(EDS) for client in clients]
    assert len({(a.version, a.nonce, tuple(a.resources.items())) for a in answers}) == 1


async def test_an_outbound_that_is_unknown_is_reported_and_served_as_none(town: World) -> None:
    """Also one that is no text. The workload goes on with what every Envoy has."""
    with capture_logs() as logs:
        client = await town.client(outbound="ADRESSES")
        await client.converge()
    assert set(client.bodies[LDS]) == at_db(town, BASE)
    (entry,) = (e for e in logs if e["event"] == "xds.node_remark")
    assert (entry["node"], entry["log_level"]) == ("envoy", "warning")
    status = await town.proxy()
    assert status["outbound"] == "listener"
    assert status["remark"] == entry["remark"]
    assert "'ADRESSES', none of ADDRESSES, CAPTURED, EXPLICIT, NONE" in status["remark"]


async def test_an_agent_follows_names(town: World) -> None:
    """All at first, then those of services that come and go; a change of instances is none of its business."""
    agent = await town.client(node="vm-1/dns", agent="isthmus-agent")
    await agent.subscribe(DNS, ["*"])
    await agent.take(DNS)
    assert set(agent.bodies[DNS]) == {"web.default.mesh", "db.default.mesh"}
    table = DnsTable.FromString(agent.bodies[DNS]["db.default.mesh"])
    (address,) = town.bridge.published.virtual_ips.values()
    found = {d.name: list(d.endpoint.address_list.address) for d in table.virtual_domains[:-1]}
    assert found == {name: [address] for name in ("db.default.mesh", "db.default", "db")}

    town.write("web", "10.0.0.1", "10.0.0.2")
    town.write("api", "10.0.0.3")
    answer = await agent.take(DNS)
    assert set(answer.resources) == {"api.default.mesh"}
    (town.folder / "api.yaml").unlink()
    assert (await agent.take(DNS)).removed == ("api.default.mesh",)


async def test_an_agent_that_comes_back_is_sent_what_it_lacks(town: World) -> None:
    agent = await town.client(node="vm-1/dns", agent="isthmus-agent")
    await agent.subscribe(DNS, ["*"])
    await agent.take(DNS)
    again = await town.client(node="vm-1/dns", agent="isthmus-agent")
    await again.subscribe(DNS, ["*"], versions=agent.held[DNS])
    assert await again.barrier() == []
    town.write("api", "10.0.0.3")
    assert set((await again.take(DNS)).resources) == {"api.default.mesh"}


async def test_an_agent_has_no_say_in_whether_proxies_follow(town: World) -> None:
    """It has not asked for endpoints, and never will."""
    envoy = await town.client()
    await envoy.converge()
    agent = await town.client(node="vm-1/dns", agent="isthmus-agent")
    await agent.subscribe(DNS, ["*"])
    await agent.take(DNS)
    _, walk = await town.get("/debug/explain?service=web&endpoint=10.0.0.1:80")
    assert walk["serving"], walk["answer"]
    assert (await town.proxy("vm-1/dns"))["kind"] == "agent"
