"""Registering in real registries: what is special about each of them, and what happens to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.agent.duration import Duration
from isthmus.agent.registration import ConsulRegistration, EtcdRegistration, EurekaRegistration
from tests.contract.registration_contract import agent, mk_registered
from tests.servers.consul import Consul
from tests.servers.etcd import OLDEST, Etcd
from tests.servers.eureka import Eureka
from tests.wait import eventually

ID = "reviews-vm-1"
PASSWORD = "b1gs3cret"  # noqa: S105 - of a server that lives for one test


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[Consul]:
    consul = await Consul.start_dev(tmp_path / "consul")
    yield consul
    consul.stop()


def in_consul(consul: Consul, **more: Any) -> ConsulRegistration:
    said: dict[str, Any] = {"address": consul.address, "ttl": Duration(3), "token": consul.token}
    return ConsulRegistration(**said | more)


async def statuses(consul: Consul) -> dict[str, str]:
    """The checks of the instance, by id."""
    checks = await consul.get("/v1/agent/checks")
    return {id_: check["Status"] for id_, check in checks.items() if check["ServiceID"] == ID}


async def test_consul_that_was_restarted_empty_is_told_again(consul: Consul, tmp_path: Path) -> None:
    async with agent(in_consul(consul), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(lambda: statuses(consul), "it is registered")
        consul.kill()
        await eventually(one.registrar.problems, "the problem")
        consul.start()
        await consul.ready()
        await eventually(lambda: statuses_are(consul, {f"isthmus:{ID}": "passing"}), "it is registered again")
        await eventually(lambda: not one.registrar.problems(), "no problem any more")


async def statuses_are(consul: Consul, expected: dict[str, str]) -> bool:
    return await statuses(consul) == expected


async def test_an_agent_may_start_before_its_consul(tmp_path: Path) -> None:
    consul = Consul(tmp_path / "consul")
    async with agent(in_consul(consul), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(one.registrar.problems, "the problem")
        assert "it is not registered since" in one.registrar.problems()[0]
        consul.start()
        try:
            await consul.ready()
            await eventually(lambda: statuses_are(consul, {f"isthmus:{ID}": "passing"}), "it is registered")
        finally:
            await one.kill()
            consul.stop()


async def test_an_operators_maintenance_in_consul_outlives_agents(consul: Consul, tmp_path: Path) -> None:
    """Neither a restart nor what an agent says of its health ends it."""
    expected = {f"isthmus:{ID}": "passing", f"_service_maintenance:{ID}": "critical"}
    async with agent(in_consul(consul), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(lambda: statuses_are(consul, {f"isthmus:{ID}": "passing"}), "it is registered")
        await consul.maintenance(ID, True)
        await one.kill()
        async with agent(in_consul(consul), tmp_path, mk_registered(weight=9)) as other:
            other.registrar.report(ID, True, "200")
            await eventually(lambda: other.registrar.standings()[0].registered, "it is registered")
            assert await statuses_are(consul, expected)
            other.registrar.report(ID, False, "refused")
            await eventually(lambda: is_critical(consul), "what the agent says")
            other.registrar.report(ID, True, "200")
            await eventually(lambda: statuses_are(consul, expected), "what the agent says")


async def is_critical(consul: Consul) -> bool:
    return (await statuses(consul))[f"isthmus:{ID}"] == "critical"


async def test_consul_is_told_what_readers_who_know_nothing_of_agents_go_by(consul: Consul, tmp_path: Path) -> None:
    labels = {"version": "v1", "app.kubernetes.io/name": "reviews", "note": "x" * 600}
    async with agent(in_consul(consul), tmp_path, mk_registered(labels=labels)) as one:
        one.registrar.report(ID, True, "200 OK")
        await eventually(lambda: statuses_are(consul, {f"isthmus:{ID}": "passing"}), "it is registered")
        service = (await consul.get("/v1/agent/services"))[ID]
        check = (await consul.get("/v1/agent/checks"))[f"isthmus:{ID}"]
    assert (service["Service"], service["Address"], service["Port"]) == ("reviews", "10.0.0.5", 19080)
    assert service["Meta"].items() >= {"port": "9080", "protocol": "http", "version": "v1"}.items()
    # What Consul does not take for metadata is a tag, which is read as a label all the same.
    assert service["Tags"] == ["app.kubernetes.io/name=reviews", f"note={'x' * 600}"]
    assert service["Weights"] == {"Passing": 7, "Warning": 7}
    assert check["Output"] == "200 OK"


async def test_a_token_without_the_right_is_a_problem_and_never_shown(tmp_path: Path) -> None:
    consul = await Consul.start_with_acls(tmp_path / "consul")
    try:
        rules = 'service_prefix "reviews" { policy = "write" }'
        policy = await consul.put("/v1/acl/policy", {"Name": "agent", "Rules": rules})
        token = (await consul.put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]}))["SecretID"]
        services = mk_registered(), mk_registered("ratings", "ratings-vm-1")
        with capture_logs() as logs:
            async with agent(in_consul(consul, token=token), tmp_path, *services) as one:
                one.registrar.report(ID, True, "200")
                await eventually(lambda: statuses_are(consul, {f"isthmus:{ID}": "passing"}), "it is registered")
                await eventually(lambda: [p for p in one.registrar.problems() if "ratings" in p], "the problem")
                problems = " ".join(one.registrar.problems())
            assert "403" in problems
            assert "Permission denied" in problems
            async with agent(in_consul(consul, token="wr0ng"), tmp_path) as other:  # noqa: S106
                await eventually(other.registrar.problems, "the problem")
                problems += " ".join(other.registrar.problems())
        assert "403" in other.registrar.problems()[0]
        assert token not in f"{problems} {logs}"
        assert "wr0ng" not in f"{problems} {logs}"
        failures = [e for e in logs if e["event"] == "agent.registration_failed" and e["id"] == "ratings-vm-1"]
        assert len(failures) == 1, "the same failure is said once"
    finally:
        consul.stop()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Eureka, Eureka]]:
    """Two servers that know nothing of each other, so that what each is told can be told apart."""
    directory = tmp_path_factory.mktemp("eureka")
    both = Eureka(directory), Eureka(directory)
    try:
        for server in both:
            server.start()
        asyncio.run(_ready(both))
        yield both
    finally:
        for server in both:
            server.stop()


async def _ready(servers: tuple[Eureka, ...]) -> None:
    await asyncio.gather(*(server.ready() for server in servers))


@pytest.fixture
async def eurekas(pair: tuple[Eureka, Eureka]) -> AsyncIterator[tuple[Eureka, Eureka]]:
    yield pair
    for server in pair:
        if not server.running:
            server.start()
    await _ready(pair)
    for server in pair:
        await server.wipe()


def in_eureka(*servers: Eureka) -> EurekaRegistration:
    return EurekaRegistration(addresses=tuple(s.address for s in servers), heartbeat=Duration(1))


async def status(eureka: Eureka) -> str:
    """The status of the instance; empty where it is not there."""
    instance = (await eureka.instances()).get(ID)
    return str(instance["status"]) if instance else ""


async def status_is(eureka: Eureka, expected: str) -> bool:
    return await status(eureka) == expected


async def test_when_one_eureka_is_killed_the_next_one_is_told(eurekas: tuple[Eureka, Eureka], tmp_path: Path) -> None:
    first, second = eurekas
    async with agent(in_eureka(first, second), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(lambda: status_is(first, "UP"), "the first one is told")
        assert await status(second) == ""
        first.kill()
        await eventually(lambda: status_is(second, "UP"), "the second one is told")
        await one.registrar.withdraw()
        assert await status(second) == ""


async def test_an_operators_out_of_service_outlives_agents(eurekas: tuple[Eureka, Eureka], tmp_path: Path) -> None:
    """Also one that drains and comes back."""
    eureka = eurekas[0]
    async with agent(in_eureka(eureka), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(lambda: status_is(eureka, "UP"), "it is registered")
        await eureka.set_status("reviews", ID, "OUT_OF_SERVICE")
        await one.registrar.drain()
        await one.kill()
    async with agent(in_eureka(eureka), tmp_path) as other:
        other.registrar.report(ID, True, "200")
        await eventually(lambda: other.registrar.standings()[0].registered, "it is registered")
        assert await status(eureka) == "OUT_OF_SERVICE"
        await eureka.clear_status("reviews", ID)
        await eventually(lambda: status_is(eureka, "UP"), "the operator lets it serve")


async def test_eureka_is_told_what_its_own_clients_go_by(eurekas: tuple[Eureka, Eureka], tmp_path: Path) -> None:
    eureka = eurekas[0]
    async with agent(in_eureka(eureka), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(lambda: status_is(eureka, "UP"), "it is registered")
        instance = (await eureka.instances())[ID]
    assert (instance["app"], instance["vipAddress"], instance["ipAddr"]) == ("REVIEWS", "reviews", "10.0.0.5")
    assert instance["port"] == {"$": 19080, "@enabled": "true"}
    assert instance["securePort"]["@enabled"] == "false"
    expected = {"port": "9080", "protocol": "http", "weight": "7", "zone": "eu-1", "version": "v1"}
    assert instance["metadata"].items() >= expected.items()
    assert instance["leaseInfo"]["renewalIntervalInSecs"] == 1
    assert instance["leaseInfo"]["durationInSecs"] == 3


def in_etcd(*members: Etcd, **more: Any) -> EtcdRegistration:
    said: dict[str, Any] = {"endpoints": tuple(m.address for m in members), "ttl": Duration(3)}
    return EtcdRegistration(**said | more)


KEY = f"/microservices/reviews/{ID}"


@contextlib.asynccontextmanager
async def one_etcd(directory: Path, **more: Any) -> AsyncIterator[Etcd]:
    etcd = await Etcd.start_one(directory, **more)
    try:
        yield etcd
    finally:
        etcd.stop()


async def has_key(etcd: Etcd) -> bool:
    return KEY in await etcd.get_keys("/microservices/")


async def test_the_oldest_etcd_keeps_leases_as_well(tmp_path: Path) -> None:
    async with one_etcd(tmp_path / "etcd", version=OLDEST) as etcd, agent(in_etcd(etcd), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(lambda: has_key(etcd), "it is registered")
        await asyncio.sleep(5)  # longer than the lease lasts by itself
        assert await has_key(etcd)
        assert one.registrar.problems() == []
        await one.registrar.withdraw()
        assert not await has_key(etcd)
        leases = await etcd.call("/v3/lease/leases", {})
        assert not leases.get("leases")


async def test_a_lease_that_ended_is_replaced(tmp_path: Path) -> None:
    """Somebody revoked it, or the cluster was restored to before it was granted."""
    async with one_etcd(tmp_path / "etcd") as etcd, agent(in_etcd(etcd), tmp_path) as one:
        one.registrar.report(ID, True, "200")
        await eventually(lambda: has_key(etcd), "it is registered")
        (lease,) = (await etcd.call("/v3/lease/leases", {}))["leases"]
        await etcd.revoke(int(lease["ID"]))
        assert not await has_key(etcd)
        await eventually(lambda: has_key(etcd), "it is registered again")
        (other,) = (await etcd.call("/v3/lease/leases", {}))["leases"]
        assert other != lease


async def test_when_a_member_is_killed_or_frozen_another_one_keeps_the_lease(tmp_path: Path) -> None:
    members = await Etcd.start_cluster(tmp_path / "etcd")
    try:
        async with agent(in_etcd(*members, ttl=Duration(20)), tmp_path) as one:
            one.registrar.report(ID, True, "200")
            await eventually(lambda: has_key(members[1]), "it is registered")
            members[0].kill()
            one.registrar.report(ID, False, "refused")
            await eventually(lambda: weight_is(members[1], "0"), "another member is told", timeout=30)
            with members[1].outage():
                # No majority is left: nothing can be told, and that is said.
                one.registrar.report(ID, True, "200")
                await eventually(one.registrar.problems, "the problem", timeout=30)
            await eventually(lambda: weight_is(members[1], "7"), "it is told", timeout=40)
            await eventually(lambda: not one.registrar.problems(), "no problem any more", timeout=40)
    finally:
        for member in members:
            member.stop()


async def weight_is(etcd: Etcd, expected: str) -> bool:
    return f'"weight":"{expected}"' in (await etcd.get_keys(KEY))[KEY]


async def test_an_etcd_user_needs_to_write_its_prefix(tmp_path: Path) -> None:
    async with one_etcd(tmp_path / "etcd") as etcd:
        await etcd.add_user("agent", PASSWORD, "/microservices/")
        await etcd.enable_authentication(PASSWORD)
        config = in_etcd(etcd, user="agent", password=PASSWORD)
        with capture_logs() as logs:
            async with agent(config, tmp_path) as one:
                await eventually(one.registrar.problems, "reading is not enough")
                problem = one.registrar.problems()[0]
                assert "user agent needs a role with read and write permission" in problem
                permission = {
                    "permType": "READWRITE",
                    "key": "L21pY3Jvc2VydmljZXMv",
                    "range_end": "L21pY3Jvc2VydmljZXMw",
                }
                await etcd.call("/v3/auth/role/grant", {"name": "agent", "perm": permission})
                await eventually(lambda: has_key(etcd), "it is registered")
            async with agent(in_etcd(etcd, user="agent", password="wr0ng"), tmp_path) as other:  # noqa: S106
                await eventually(other.registrar.problems, "the password is wrong")
                problem += other.registrar.problems()[0]
        assert PASSWORD not in f"{problem} {logs}"
        assert "wr0ng" not in f"{problem} {logs}"
