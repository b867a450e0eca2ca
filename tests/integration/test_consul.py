"""The Consul adapter against a real Consul."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.consul.api import ConsulApi
from isthmus.registry.consul.budget import ReadBudget
from isthmus.registry.guard import GuardRules, guard
from isthmus.registry.model import Health, Origin, Service, ServiceKey
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.integration.consul_reading import HEARTBEAT, health, instance, reading, reading_at_all
from tests.servers.consul import Consul, find_consul
from tests.servers.process import free_port
from tests.wait import eventually

NOTICED_WITHIN = HEARTBEAT * 17 / 16 + 2 + 1.5


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    consul = Consul(tmp_path_factory.mktemp("consul"))
    consul.start()
    try:
        asyncio.run(consul.ready())
        yield consul
    finally:
        consul.stop()


@pytest.fixture
async def consul(shared: Consul) -> AsyncIterator[Consul]:
    """A Consul that knows only itself."""
    yield shared
    await shared.wipe()


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Consul]:
    """A Consul that the test may break."""
    consul = await Consul.start_dev(tmp_path)
    yield consul
    consul.stop()


def _has_health(seen: Following, service: str, expected: Health) -> bool:
    return health(seen, service) is expected


def _differs(seen: Following, service: str, old: Service | None) -> bool:
    return seen.service(service) != old


async def test_health_follows_checks_and_maintenance(consul: Consul) -> None:
    await consul.register("web", ttl_status="critical")
    async with reading(consul) as (seen, _):
        assert health(seen, "web") is Health.UNHEALTHY
        await consul.set_check("web", "passing")
        await eventually(lambda: health(seen, "web") is Health.HEALTHY, "the check passes")
        await consul.set_check("web", "critical")
        await eventually(lambda: health(seen, "web") is Health.UNHEALTHY, "the check is critical")
        await consul.set_check("web", "warning")
        await eventually(lambda: health(seen, "web") is Health.HEALTHY, "a warning keeps it in")
        await consul.maintenance("web", True)
        await eventually(lambda: health(seen, "web") is Health.DRAINING, "maintenance drains")
        await consul.maintenance("web", False)
        await eventually(lambda: health(seen, "web") is Health.HEALTHY, "maintenance ends")
        await consul.node_maintenance(True)
        await eventually(lambda: health(seen, "web") is Health.DRAINING, "maintenance of the node drains")
        await consul.node_maintenance(False)
        await eventually(lambda: health(seen, "web") is Health.HEALTHY, "maintenance of the node ends")


async def test_a_warning_takes_the_warning_weight(consul: Consul) -> None:
    await consul.register("web", weights=(10, 2), ttl_status="passing")
    async with reading(consul) as (seen, _):
        before = instance(seen, "web")
        assert before is not None
        assert before.weight == 10
        await consul.set_check("web", "warning")
        await eventually(lambda: (i := instance(seen, "web")) and i.weight == 2, "the weight of a warning")


async def test_meta_tags_and_address_are_followed(consul: Consul) -> None:
    await consul.register("web", "web-1", port=23456, tags=["v1"], meta={"protocol": "grpc", "version": "v1"})
    async with reading(consul) as (seen, _):
        service = seen.service("web")
        assert service is not None
        assert [(p.name, p.number) for p in service.ports] == [("grpc", 80)]
        assert service.hostnames == {"web.service.consul", "web.service.dc1.consul"}
        await consul.register("web", "web-1", port=23457, address="10.0.0.7", tags=["v2"], meta={"protocol": "grpc"})
        await eventually(lambda: seen.addresses("web") == {"10.0.0.7": 23457}, "the new address")
        moved = instance(seen, "web", "web-1")
        assert moved is not None
        assert moved.labels == {"protocol": "grpc", "tags": "v2"}
        ports = {s.ports for snapshot in seen.snapshots for s in snapshot.services.values()}
        assert len(ports) == 1, "another random port is no other logical port"


async def test_a_change_of_one_service_reads_no_other(consul: Consul) -> None:
    """One service of thirty: its own query comes back, and the two hints, whatever the number of the others."""
    for n in range(30):
        await consul.catalog_register("n1", f"svc-{n}")
    async with reading(consul, heartbeat=30) as (seen, stats):
        before = stats.reads
        await consul.catalog_register("n1", "svc-7", Address="10.0.0.7")
        await eventually(lambda: seen.addresses("svc-7") == {"10.0.0.7": 8080}, "the change")
        assert seen.latest.changed is not None
        assert [k.name for k in seen.latest.changed] == ["svc-7"]
        # A second change, so that whatever the first one caused has happened by now.
        await consul.catalog_register("n1", "svc-8", Address="10.0.0.8")
        await eventually(lambda: seen.addresses("svc-8") == {"10.0.0.8": 8080}, "the second change")
        assert stats.reads - before <= 6


async def test_an_idle_consul_is_asked_for_its_heartbeat_only(consul: Consul) -> None:
    for n in range(20):
        await consul.catalog_register("n1", f"svc-{n}")
    async with reading(consul, heartbeat=0.1) as (seen, stats):
        began, before, wake_ups, count = time.monotonic(), stats.reads, stats.wake_ups, len(seen.snapshots)
        await eventually(lambda: stats.reads >= before + 8, "eight heartbeats")
        assert stats.reads - before <= (time.monotonic() - began) / 0.1 + 1
        assert stats.wake_ups == wake_ups
        assert len(seen.snapshots) == count


Change = Callable[[Consul, str], Awaitable[None]]


async def _address(consul: Consul, name: str) -> None:
    await consul.catalog_register("n1", name, Address="10.0.0.7")


async def _further_instance(consul: Consul, name: str) -> None:
    await consul.catalog_register("n2", name, f"{name}-2", Address="10.0.0.7")


async def _deregistration(consul: Consul, name: str) -> None:
    await consul.catalog_deregister("n1", name)


@pytest.mark.parametrize("change", [_address, _further_instance, _deregistration])
async def test_a_change_that_no_hint_names_is_found_among_many_services(consul: Consul, change: Change) -> None:
    """300 services on 50 connections: most have no blocking query of their own."""
    names = [f"svc-{n:03}" for n in range(300)]
    for begin in range(0, 300, 50):
        await asyncio.gather(*(consul.catalog_register("n1", n) for n in names[begin : begin + 50]))
    async with reading(consul, max_connections=50, heartbeat=30) as (seen, stats):
        assert len(seen.latest.services) == 300
        assert stats.reads <= 310
        before = stats.reads
        for n, name in enumerate(("svc-000", "svc-150", "svc-299"), 1):
            old = seen.service(name)
            await change(consul, name)
            await eventually(partial(_differs, seen, name, old), f"{name} changed")
            assert stats.reads - before <= n * (300 + 10)
        assert stats.errors == 0


async def test_a_check_that_turns_is_found_among_many_services_without_reading_them(consul: Consul) -> None:
    """The checks that do not pass name the service, so only it is read."""
    checks = [{"Node": "n1", "CheckID": "c", "Name": "c", "Status": "passing"}]

    async def turn(name: str, status: str) -> None:
        check = checks[0] | {"CheckID": name, "ServiceID": name, "Status": status}
        entry = {"ID": name, "Service": name, "Port": 8080}
        body = {"Node": "n1", "Address": "127.0.0.1", "Service": entry, "Checks": [check]}
        await consul.put("/v1/catalog/register", body)

    for n in range(100):
        await turn(f"svc-{n:03}", "passing")
    async with reading(consul, max_connections=28, heartbeat=30) as (seen, stats):
        before = stats.reads
        for name in ("svc-000", "svc-050", "svc-099"):
            await turn(name, "critical")
            await eventually(partial(_has_health, seen, name, Health.UNHEALTHY), f"{name} is critical")
            await turn(name, "passing")
            await eventually(partial(_has_health, seen, name, Health.HEALTHY), f"{name} passes")
        assert stats.reads - before <= 40


async def _register_with_check(consul: Consul, name: str, id_: str, address: str) -> None:
    check = {"Node": "n1", "CheckID": id_, "Name": "c", "Status": "passing", "ServiceID": id_, "ServiceName": name}
    entry = {"ID": id_, "Service": name, "Address": address, "Port": 8080}
    await consul.put("/v1/catalog/register", {"Node": "n1", "Address": "127.0.0.1", "Service": entry, "Check": check})


async def test_instances_with_a_check_are_found_among_many_services_without_reading_them(consul: Consul) -> None:
    """300 services on 50 connections: all checks are read once for each change, and tell whose instance came or went."""
    names = [f"svc-{n:03}" for n in range(300)]
    for begin in range(0, 300, 50):
        await asyncio.gather(
            *(_register_with_check(consul, n, n, "10.0.0.1") for n in names[begin : begin + 50]),
        )
    async with reading(consul, max_connections=50, heartbeat=30) as (seen, stats):
        before = stats.reads
        for name in ("svc-000", "svc-100", "svc-200"):
            await _register_with_check(consul, name, f"{name}-2", "10.0.0.2")
            await eventually(lambda: len(seen.addresses(name)) == 2, f"{name} has another instance")  # noqa: B023
            await consul.catalog_deregister("n1", f"{name}-2")
            await eventually(lambda: len(seen.addresses(name)) == 1, f"the instance of {name} is gone")  # noqa: B023
        for name in ("svc-050", "svc-150", "svc-250"):
            await consul.catalog_deregister("n1", name)
            await eventually(lambda: not seen.service(name), f"{name} is gone")  # noqa: B023
        assert stats.reads - before <= 9 * 12
        assert stats.errors == 0


async def test_node_checks_concern_each_service_on_the_node(consul: Consul) -> None:
    """Also those without a blocking query of their own."""
    for n in range(40):
        await consul.catalog_register("n1" if n % 2 else "n2", f"svc-{n}")
    async with reading(consul, max_connections=25, heartbeat=30) as (seen, _):
        check = {"Node": "n1", "CheckID": "serfHealth", "Name": "Serf", "Status": "critical"}
        body = {"Node": "n1", "Address": "127.0.0.1", "SkipNodeUpdate": True, "Check": check}
        await consul.put("/v1/catalog/register", body)
        await eventually(
            lambda: all(health(seen, f"svc-{n}") is Health.UNHEALTHY for n in range(1, 40, 2)), "n1's services are out"
        )
        assert all(health(seen, f"svc-{n}") is Health.HEALTHY for n in range(0, 40, 2))


async def test_the_index_of_a_service_moves_with_all_that_concerns_it_and_can_be_had_for_little(consul: Consul) -> None:
    """Sweeps rest on it: whatever changes, asking for the instances with a tag that none has tells the index of all."""
    await consul.register("web", "web-1", ttl_status="passing")
    await consul.catalog_register("n1", "web", "web-2")
    await consul.catalog_register("n1", "other")
    stats = OriginStatus(Origin("dc1", "consul"))
    config = ConsulConfig(address=consul.address)
    api = ConsulApi(config, ReadBudget(config.max_reads_per_minute, stats), stats, config.max_connections)
    node = {"Node": "n1", "Address": "127.0.0.2"}
    check = {"Check": {"Node": "n1", "CheckID": "n", "Name": "n", "Status": "warning"}}
    concerning: list[Callable[[], Awaitable[object]]] = [
        lambda: consul.set_check("web-1", "critical"),
        lambda: consul.maintenance("web-1", True),
        lambda: consul.register("web", "web-1", meta={"version": "v2"}, ttl_status="passing"),
        lambda: consul.register("web", "web-1", weights=(2, 1), ttl_status="passing"),
        lambda: consul.put("/v1/catalog/register", node),
        lambda: consul.put("/v1/catalog/register", node | {"NodeMeta": {"zone": "z"}}),
        lambda: consul.put("/v1/catalog/register", node | check),
        lambda: consul.catalog_deregister("n1"),
    ]
    try:
        for change in concerning:
            before = (await api.instances("web")).index
            assert await api.is_at("web", before)
            await change()
            after = (await api.instances("web")).index
            assert after > before
            assert await api.is_at("web", after)
            assert not await api.is_at("web", before)
    finally:
        await api.close()


async def test_the_index_of_a_node_moves_with_what_is_registered_on_it_and_with_no_check(consul: Consul) -> None:
    """Sweeps rest on it, where there are fewer nodes than services: its own, and not that of all nodes."""
    await consul.catalog_register("n1", "web", "web-1")
    await consul.catalog_register("n2", "web", "web-2")
    stats = OriginStatus(Origin("dc1", "consul"))
    config = ConsulConfig(address=consul.address)
    api = ConsulApi(config, ReadBudget(config.max_reads_per_minute, stats), stats, config.max_connections)
    node = {"Node": "n1", "Address": "127.0.0.2"}
    concerning: list[Callable[[], Awaitable[object]]] = [
        lambda: consul.catalog_register("n1", "web", "web-1", Address="10.0.0.9"),
        lambda: consul.catalog_register("n1", "web", "web-1", Weights={"Passing": 7, "Warning": 1}),
        lambda: consul.catalog_register("n1", "db", "db-1"),
        lambda: consul.put("/v1/catalog/register", node),
        lambda: consul.put("/v1/catalog/deregister", {"Node": "n1", "ServiceID": "db-1"}),
    ]
    try:
        other = await api.node_index("n2")
        for change in concerning:
            before = await api.node_index("n1")
            await change()
            after = await api.node_index("n1")
            assert after > before
            assert after == (await api.registered("n1")).index
        assert set((await api.registered("n1")).value) == {("web", "web-1")}
        check = {"Check": {"Node": "n1", "CheckID": "n", "Name": "n", "Status": "critical"}}
        await consul.put("/v1/catalog/register", node | check)
        assert await api.node_index("n1") == after
        assert await api.node_index("n2") == other
    finally:
        await api.close()


async def test_an_instance_that_nothing_names_is_seen_to_come_to_change_and_to_go(consul: Consul) -> None:
    """It has no check, and its service no query of its own: a sweep finds it, by its node."""
    for n in range(30):
        await consul.catalog_register(f"n{n % 3}", f"svc-{n:02}")
    async with reading(consul, max_connections=23, heartbeat=30) as (seen, stats):
        await consul.catalog_register("n1", "svc-07", "more", Address="10.0.0.8")
        await eventually(lambda: set(seen.addresses("svc-07")) == {"127.0.0.1", "10.0.0.8"}, "it has come")
        await consul.catalog_register("n1", "svc-07", "more", Address="10.0.0.9")
        await eventually(lambda: set(seen.addresses("svc-07")) == {"127.0.0.1", "10.0.0.9"}, "it has moved")
        await consul.put("/v1/catalog/deregister", {"Node": "n1", "ServiceID": "more"})
        await eventually(lambda: set(seen.addresses("svc-07")) == {"127.0.0.1"}, "it is gone")
        assert stats.errors == 0


async def test_a_node_that_goes_takes_its_instances_along(consul: Consul) -> None:
    """Under one index for all services on it, most of which have no blocking query of their own: a graceful leave does that."""
    names = [f"svc-{n:02}" for n in range(40)]
    for node, address in (("n1", "10.0.0.1"), ("n2", "10.0.0.2")):
        await asyncio.gather(*(consul.catalog_register(node, n, Address=address) for n in names))
    async with reading(consul, max_connections=33, heartbeat=30) as (seen, stats):
        await consul.catalog_deregister("n1")
        await eventually(lambda: all(seen.addresses(n) == {"10.0.0.2": 8080} for n in names), "they are gone")
        assert stats.errors == 0


async def test_a_node_that_moves_takes_its_instances_along(consul: Consul) -> None:
    """Those that have no address of their own."""
    names = [f"svc-{n:02}" for n in range(40)]
    await asyncio.gather(*(consul.catalog_register("n1", n) for n in names))
    async with reading(consul, max_connections=33, heartbeat=30) as (seen, _):
        await consul.put("/v1/catalog/register", {"Node": "n1", "Address": "10.0.0.9"})
        await eventually(lambda: all(seen.addresses(n) == {"10.0.0.9": 8080} for n in names), "they have moved")


async def test_many_changes_at_once_all_arrive(consul: Consul) -> None:
    """A hundred services change while only twelve have a query of their own."""
    names = [f"svc-{n:03}" for n in range(100)]
    await asyncio.gather(*(consul.catalog_register("n1", n) for n in names))
    async with reading(consul, max_connections=30, heartbeat=30) as (seen, _):
        await asyncio.gather(*(consul.catalog_register("n1", n, Address="10.0.0.7") for n in names))
        await eventually(lambda: all(seen.addresses(n) == {"10.0.0.7": 8080} for n in names), "all moved")


async def test_a_frozen_agent_is_noticed_within_a_heartbeat(own: Consul) -> None:
    await own.register("web")
    async with reading(own) as (seen, stats):
        count = len(seen.snapshots)
        with own.outage():
            began = time.monotonic()
            error = await eventually(lambda: seen.error, "an AdapterError")
            assert time.monotonic() - began < NOTICED_WITHIN
        assert "no answer within" in str(error)
        assert own.address in str(error)
        assert len(seen.snapshots) == count
        assert stats.errors >= 1


async def test_a_killed_agent_is_noticed_at_once_and_listed_again_when_it_is_back(own: Consul) -> None:
    """It comes back with nothing: the listing says so, with an index that is lower than the one before."""
    for n in range(5):
        await own.register(f"svc-{n}")
    async with reading(own) as (seen, _):
        own.kill()
        began = time.monotonic()
        await eventually(lambda: seen.error, "an AdapterError")
        assert time.monotonic() - began < 1
        assert len(seen.latest.services) == 5
    async with reading_at_all(own) as (refused, _):
        error = await eventually(lambda: refused.error, "an AdapterError")
        assert own.address in str(error)
    own.start()
    await own.ready()
    async with reading(own) as (again, _):
        assert again.latest.services == {}
        assert int(again.latest.cursor) < int(seen.latest.cursor)
        await own.register("web")
        await eventually(lambda: again.service("web"), "a service of the new Consul")


async def test_more_connections_than_the_agent_allows_is_an_error_that_names_the_limit(tmp_path: Path) -> None:
    consul = await Consul.start_dev(tmp_path, {"limits": {"http_max_conns_per_client": 25}})
    try:
        for n in range(40):
            await consul.catalog_register("n1", f"svc-{n}")
        async with reading_at_all(consul, max_connections=60) as (seen, _):
            error = await eventually(lambda: seen.error, "an AdapterError", timeout=15)
            assert "http_max_conns_per_client" in str(error)
    finally:
        consul.stop()


class Token:
    """A token with a policy of its own."""

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self._policy = f"p{time.monotonic_ns()}"
        self._policy_id = self._accessor = self.secret = ""

    async def create(self, *rules: str) -> Token:
        policy = await self._consul.put("/v1/acl/policy", self._with(rules))
        self._policy_id = policy["ID"]
        token = await self._consul.put("/v1/acl/token", {"Policies": [{"Name": self._policy}]})
        self._accessor, self.secret = token["AccessorID"], token["SecretID"]
        return self

    async def allow(self, *rules: str) -> None:
        """These rights, and no others any more."""
        await self._consul.put(f"/v1/acl/policy/{self._policy_id}", self._with(rules))

    async def delete(self) -> None:
        await self._consul.request("DELETE", f"/v1/acl/token/{self._accessor}")

    def _with(self, rules: tuple[str, ...]) -> dict[str, str]:
        return {"Name": self._policy, "Rules": " ".join(f'{r} {{ policy = "read" }}' for r in rules)}


NODES, SERVICES, WEB = 'node_prefix ""', 'service_prefix ""', 'service "web"'


@pytest.fixture(scope="module")
def shared_with_acls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    consul = asyncio.run(Consul.start_with_acls(tmp_path_factory.mktemp("consul-acls")))
    yield consul
    consul.stop()


@pytest.fixture
async def denying(shared_with_acls: Consul) -> AsyncIterator[Consul]:
    """A Consul that denies by default, with two instances each of web and api."""
    for name in ("web", "api"):
        for node in ("n1", "n2"):
            await shared_with_acls.catalog_register(node, name, f"{name}-{node}", Address=f"10.0.0.{node[1]}")
    yield shared_with_acls
    await shared_with_acls.wipe()


def names(services: Iterable[ServiceKey]) -> list[str]:
    return sorted(k.name for k in services)


async def test_a_token_that_is_gone_is_an_error(denying: Consul) -> None:
    token = await Token(denying).create(SERVICES, NODES)
    async with reading(denying, token=token.secret) as (seen, _):
        assert names(seen.latest.services) == ["api", "web"]
        assert (seen.latest.doubt, seen.latest.doubts, seen.latest.unlisted) == ("", {}, "")
        await token.delete()
        error = await eventually(lambda: seen.error, "an AdapterError", timeout=30)
        assert "403" in str(error)
        assert token.secret not in str(error)
        assert len(seen.latest.services) == 2


async def test_without_a_token_nothing_is_certain_where_the_default_is_to_deny(denying: Consul) -> None:
    async with reading(denying, token="") as (seen, _):
        assert seen.latest.services == {}
        assert "token" in seen.latest.doubt


@pytest.mark.parametrize("max_connections", [50, 23])
async def test_a_token_for_one_service_is_believed_about_it(denying: Consul, max_connections: int) -> None:
    """Its deregistrations are no doubt, with a blocking query of its own and without; nor is the end of the service."""
    token = await Token(denying).create(WEB, NODES)
    async with reading(denying, token=token.secret, max_connections=max_connections) as (seen, _):
        assert names(seen.latest.services) == ["web"]
        assert seen.latest.unlisted
        for node, left in (("n1", {"10.0.0.2": 8080}), ("n2", {})):
            await denying.catalog_deregister(node, f"web-{node}")
            await eventually(lambda: seen.addresses("web") == left, f"the instance on {node} is gone")  # noqa: B023
            assert (seen.latest.doubt, seen.latest.doubts) == ("", {})
        await denying.catalog_register("n1", "web", "web-n1", Address="10.0.0.9")
        await eventually(lambda: seen.addresses("web") == {"10.0.0.9": 8080}, "it is registered again")


@pytest.mark.parametrize("max_connections", [50, 23])
async def test_a_right_that_is_lost_is_no_deregistration(denying: Consul, max_connections: int) -> None:
    """The service is in doubt until the right is back, or until it is deregistered, which a token without it still sees."""
    token = await Token(denying).create(SERVICES, NODES)
    async with reading(denying, token=token.secret, max_connections=max_connections) as (seen, stats):
        admitted = [guard(None, seen.latest, 0, relisted=True, rules=GuardRules())]
        await token.allow(WEB, NODES)
        await eventually(lambda: names(seen.latest.doubts) == ["api"], "api is in doubt", timeout=30)
        assert seen.latest.doubt == ""
        for snapshot in seen.snapshots[1:]:
            admitted.append(guard(admitted[-1], snapshot, 1, relisted=False, rules=GuardRules()))
            assert names(admitted[-1].admitted.services) == ["api", "web"]

        await token.allow(SERVICES, NODES)
        await eventually(lambda: len(seen.addresses("api")) == 2 and not seen.latest.doubts, "it is seen again", 30)
        await token.allow(WEB, NODES)
        await eventually(lambda: names(seen.latest.doubts) == ["api"], "api is in doubt again", timeout=30)
        for node in ("n1", "n2"):
            await denying.catalog_deregister(node, f"api-{node}")
        await eventually(lambda: not seen.latest.doubts, "it is gone", timeout=30)
        assert names(seen.latest.services) == ["web"]
        assert stats.errors == 0


async def test_instances_on_nodes_that_a_token_may_not_read_are_in_doubt(denying: Consul) -> None:
    """Also when the right is lost under a blocking query, whose own answer does not tell."""
    token = await Token(denying).create(SERVICES, NODES)
    async with reading(denying, token=token.secret) as (seen, _):
        assert len(seen.addresses("web")) == 2
        await token.allow(SERVICES, 'node "n1"')
        # Whatever wakes it: the query is answered when something changes.
        await denying.catalog_register("n1", "web", "web-n1", Address="10.0.0.7")
        await eventually(lambda: seen.addresses("web") == {"10.0.0.7": 8080}, "what it may see of web", timeout=30)
        assert "web" in names(seen.latest.doubts)


async def test_what_a_later_listing_cannot_name_is_asked_for(denying: Consul) -> None:
    """After an error the next iteration begins with a list that lacks what ACLs hide: it is in doubt, and not gone."""
    token = await Token(denying).create(SERVICES, NODES)
    origin = Origin("dc1", "consul")
    config = ConsulConfig(address=denying.address, token=token.secret, heartbeat=HEARTBEAT)
    adapter = ConsulAdapter(origin, config, OriginStatus(origin))
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots, "a first snapshot")
    await token.allow(WEB, NODES)
    async with following(adapter) as again:
        await eventually(lambda: again.snapshots, "a first snapshot")
        assert names(again.latest.services) == ["web"]
        assert names(again.latest.doubts) == ["api"]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority, and what it signed for a server and a client, as `consul tls` makes them."""
    for what in (["ca", "create"], ["cert", "create", "-server", "-dc=dc1"], ["cert", "create", "-client", "-dc=dc1"]):
        subprocess.run([find_consul(), "tls", *what], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


async def test_tls(certificates: Path) -> None:
    """An authority of one's own, a client certificate, and what is said when they are missing."""
    tmp_path = certificates
    ca = str(tmp_path / "consul-agent-ca.pem")
    server, client = (str(tmp_path / f"dc1-{who}-consul-0") for who in ("server", "client"))
    https = free_port()
    tls = {"ca_file": ca, "cert_file": f"{server}.pem", "key_file": f"{server}-key.pem", "verify_incoming": True}
    consul = Consul(tmp_path, {"tls": {"https": tls}, "ports": {"https": https}})
    consul.start()
    try:
        await consul.ready()
        await consul.register("web")
        address = f"https://127.0.0.1:{https}"
        mine = {"cert_file": f"{client}.pem", "key_file": f"{client}-key.pem"}
        async with reading(consul, address=address, ca_file=ca, **mine) as (seen, _):
            assert seen.service("web")
        async with reading(consul, address=address, ca_file=ca, tls_server_name="server.dc1.consul", **mine) as (
            seen,
            _,
        ):
            assert seen.service("web")
        for options, words in (
            (mine, "certificate verify failed"),
            ({"ca_file": ca, "tls_server_name": "other.example", **mine}, "certificate verify failed"),
            ({"ca_file": ca}, "certificate required"),
        ):
            async with reading_at_all(consul, address=address, **options) as (seen, _):
                error = await eventually(partial(getattr, seen, "error"), "an AdapterError")
                assert words in str(error)
    finally:
        consul.stop()


async def test_an_adapter_that_was_cancelled_holds_no_connection(consul: Consul) -> None:
    for n in range(20):
        await consul.catalog_register("n1", f"svc-{n}")
    async with reading(consul):
        await eventually(lambda: connections(consul.port) >= 20, "a blocking query for each service")
    assert connections(consul.port) == 0


def connections(port: int) -> int:
    """How many established connections there are to this port of loopback."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[2] == f"0100007F:{port:04X}" and row[3] == "01")
