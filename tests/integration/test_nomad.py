"""The Nomad adapter against a real Nomad that runs real jobs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from isthmus.registry.model import Health, Instance, Locality, Origin, Protocol, ServiceKey
from isthmus.registry.nomad import NomadAdapter, NomadConfig
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.servers.nomad import DEPLOYMENT, Nomad, find_nomad, mk_job, mk_service
from tests.wait import eventually

HEARTBEAT = 0.5
NOTICED_WITHIN = HEARTBEAT * 17 / 16 + 2 + 1.5
SHUTDOWN_DELAY = 2.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nomad]:
    nomad = Nomad(tmp_path_factory.mktemp("nomad"))
    nomad.start()
    try:
        asyncio.run(nomad.ready())
        yield nomad
    finally:
        nomad.stop()


@pytest.fixture
async def nomad(shared: Nomad) -> AsyncIterator[Nomad]:
    """A Nomad that runs nothing."""
    yield shared
    await shared.wipe()


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Nomad]:
    """A Nomad that the test may break."""
    nomad = await Nomad.start_one(tmp_path)
    try:
        yield nomad
        await nomad.wipe()
    finally:
        nomad.stop()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where a test says whose /health fails: by a file with the allocation's id, or `all`."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@contextlib.asynccontextmanager
async def reading(nomad: Nomad, **options: object) -> AsyncIterator[tuple[Following, OriginStatus]]:
    """An adapter under way, after its first snapshot."""
    async with reading_at_all(nomad, **options) as (seen, stats):
        await eventually(lambda: seen.snapshots or seen.error, "a first snapshot")
        assert seen.error is None
        yield seen, stats


@contextlib.asynccontextmanager
async def reading_at_all(nomad: Nomad, **options: object) -> AsyncIterator[tuple[Following, OriginStatus]]:
    """An adapter under way, whether or not it gets anywhere."""
    async with following(mk_adapter(nomad, **options)) as seen:
        yield seen, OriginStatus(Origin("global", "nomad"))


def mk_adapter(nomad: Nomad, **options: object) -> NomadAdapter:
    origin = Origin("global", "nomad")
    settings: dict[str, Any] = {"address": nomad.address, "heartbeat": HEARTBEAT, "token": nomad.token} | options
    return NomadAdapter(origin, NomadConfig(**settings), OriginStatus(origin))


def instances(seen: Following, service: str = "web") -> dict[str, Instance]:
    """The instances of a service in the latest snapshot, by allocation."""
    found = seen.service(service)
    return {i.provenance["allocation"]: i for i in found.instances} if found else {}


def healths(seen: Following, service: str = "web") -> list[Health]:
    return sorted((i.health for i in instances(seen, service).values()), key=lambda h: h.name)


def health_of(seen: Following, alloc: str) -> Health | None:
    found = instances(seen).get(alloc)
    return found.health if found else None


async def until_healthy(seen: Following, count: int = 1, service: str = "web") -> None:
    await eventually(lambda: healths(seen, service) == [Health.HEALTHY] * count, f"{count} healthy", timeout=30)


async def serves(instance: Instance) -> bool:
    """Whether a request to the instance is answered."""
    port = next(iter(instance.ports.values()))
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
        session.get(f"http://{instance.address}:{port}/") as response,
    ):
        return response.status == 200


class TestWhatAServiceIs:
    async def test_random_ports_are_one_logical_port(self, nomad: Nomad) -> None:
        """Each instance has a port of its own, callers name one."""
        await nomad.run(mk_job("web", mk_service("web"), count=2))
        async with reading(nomad) as (seen, _):
            await until_healthy(seen, 2)
            service = seen.service("web")
            assert service is not None
            (port,) = service.ports
            assert (port.name, port.number) == ("http", 80)
            assert len({i.ports["http"] for i in service.instances}) == 2
            assert all([await serves(i) for i in service.instances])
            assert service.key == ServiceKey("default", "web")
            assert service.hostnames == {"web.service.nomad", "web.default.service.nomad"}

    async def test_tags_say_port_protocol_and_weight(self, nomad: Nomad) -> None:
        tags = ["port=9090", "protocol=grpc", "weight=5", "version=v2", "blue"]
        await nomad.run(mk_job("web", mk_service("web", tags=tags)))
        async with reading(nomad) as (seen, _):
            await until_healthy(seen)
            service = seen.service("web")
            assert service is not None
            assert [(p.name, p.number) for p in service.ports] == [("grpc", 9090)]
            (instance,) = service.instances
            assert instance.weight == 5
            assert instance.labels["version"] == "v2"
            assert instance.labels["tags"] == "blue"

    async def test_conventions_and_the_name_of_the_port(self, nomad: Nomad) -> None:
        """What the job calls the port tells its protocol, and another tool's tags are read where that is configured."""
        group = {"Networks": [{"DynamicPorts": [{"Label": "http"}, {"Label": "grpc-web"}]}]}
        tags = ["weight:40", "canary", "version=v2"]
        await nomad.run(mk_job("web", mk_service("web", "grpc-web", tags=tags), group=group))
        async with reading(nomad, conventions=("k=v", "envoy-control")) as (seen, _):
            await until_healthy(seen)
            service = seen.service("web")
            assert service is not None
            assert [(p.name, p.protocol) for p in service.ports] == [("grpc-web", Protocol.GRPC_WEB)]
            (instance,) = service.instances
            assert instance.weight == 40
            assert instance.labels == {"canary": "true", "version": "v2", "weight": "40"}

    async def test_an_instance_says_where_it_runs(self, nomad: Nomad) -> None:
        await nomad.run(mk_job("web", mk_service("web")))
        async with reading(nomad) as (seen, _):
            await until_healthy(seen)
            ((alloc, instance),) = instances(seen).items()
            assert instance.locality == Locality("global", "dc1")
            assert instance.provenance == {
                "job": "web",
                "group": "web",
                "allocation": alloc,
                "node": "node-0",
                "datacenter": "dc1",
            }

    async def test_the_same_name_in_two_namespaces_is_two_services(self, nomad: Nomad) -> None:
        """Also in a namespace that is made while the adapter is under way."""
        await nomad.put("/v1/namespace/team-a", {"Name": "team-a"})
        await nomad.run(mk_job("web", mk_service("web")))
        await nomad.run(mk_job("web", mk_service("web"), namespace="team-a"))
        async with reading(nomad, namespace="*") as (seen, _):
            await eventually(lambda: len(seen.latest.services) == 2, "both services", timeout=20)
            await nomad.put("/v1/namespace/team-b", {"Name": "team-b"})
            await nomad.run(mk_job("web", mk_service("web"), namespace="team-b"))
            await eventually(lambda: len(seen.latest.services) == 3, "the third", timeout=20)
            hostnames = {key.namespace: s.hostnames for key, s in seen.latest.services.items()}
            assert "web.service.nomad" in hostnames["default"]
            assert hostnames["team-b"] == {"web.team-b.service.nomad"}
            await nomad.wipe()

            async def deleted() -> bool:
                for name in ("team-a", "team-b"):
                    with contextlib.suppress(ValueError):
                        await nomad.request("DELETE", f"/v1/namespace/{name}")
                return len(await nomad.get("/v1/namespaces")) == 1

            await eventually(deleted, "the namespaces can be deleted", timeout=20, every=0.2)

    async def test_a_service_scaled_to_zero_stays_without_instances(self, nomad: Nomad) -> None:
        """Until its job is stopped: a caller gets 503, not an unknown cluster. Also for who asks Nomad anew."""
        await nomad.run(mk_job("web", mk_service("web")))
        adapter = mk_adapter(nomad)
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots and healths(seen) == [Health.HEALTHY], "it runs", timeout=20)
            await nomad.scale("web", "web", 0)
            await eventually(lambda: seen.service("web") and not instances(seen), "it has no instances", timeout=20)
            assert (await adapter.listing()).services == seen.latest.services
            await nomad.scale("web", "web", 1)
            await until_healthy(seen)
            await nomad.scale("web", "web", 0)
            await eventually(lambda: seen.service("web") and not instances(seen), "it has none again", timeout=20)
            await nomad.stop_job("web")
            await eventually(lambda: seen.service("web") is None, "it is gone with its job")


class TestHealth:
    async def test_an_instance_is_unhealthy_until_its_first_check_passes(self, nomad: Nomad, state: Path) -> None:
        """Nomad lists it before its task runs."""
        (state / "all").touch()
        await nomad.run(mk_job("web", mk_service("web", check=True), state=state))
        async with reading(nomad) as (seen, _):
            await eventually(lambda: "check alive: failure" in _reasons(seen), "its check has failed", timeout=20)
            (state / "all").unlink()
            await until_healthy(seen)
        shown = [healths(seen) for s in seen.snapshots if s.services for seen in [_at(s)]]
        assert shown[-1] == [Health.HEALTHY]
        assert all(h == [Health.UNHEALTHY] for h in shown[:-1])

    async def test_a_failing_check_is_noticed_within_three_seconds(self, nomad: Nomad, state: Path) -> None:
        """Although nothing in Nomad's state changes with it."""
        await nomad.run(mk_job("web", mk_service("web", check=True), count=2, state=state))
        async with reading(nomad) as (seen, _):
            await until_healthy(seen, 2)
            ill, well = instances(seen)
            (state / ill).touch()
            began = time.monotonic()
            await eventually(lambda: health_of(seen, ill) is Health.UNHEALTHY, "the failure is seen")
            assert time.monotonic() - began < 1 + 3  # Nomad itself checks each second
            assert health_of(seen, well) is Health.HEALTHY
            assert instances(seen)[ill].provenance["health"] == "check alive: failure"
            (state / ill).unlink()
            await until_healthy(seen, 2)

    async def test_only_the_allocations_with_checks_are_asked(self, nomad: Nomad) -> None:
        await nomad.run(mk_job("web", mk_service("web")))
        origin = Origin("global", "nomad")
        stats = OriginStatus(origin)
        config = NomadConfig(address=nomad.address, heartbeat=60)
        async with following(NomadAdapter(origin, config, stats)) as seen:
            await eventually(lambda: seen.snapshots and healths(seen) == [Health.HEALTHY], "it runs", timeout=20)
            reads = stats.reads
            await nomad.run(mk_job("api", mk_service("api")))  # so that some time passes
            await until_healthy(seen, service="api")
            assert stats.reads - reads <= 2, "its job and its node at the most"

    async def test_a_scale_down_drains_for_as_long_as_the_task_serves(self, nomad: Nomad, state: Path) -> None:
        """Nomad takes it off its list in the moment in which it decides."""
        job = mk_job("web", mk_service("web", check=True), count=2, state=state, shutdown_delay=SHUTDOWN_DELAY)
        await nomad.run(job)
        async with reading(nomad) as (seen, _):
            await until_healthy(seen, 2)
            await nomad.scale("web", "web", 1)
            began = time.monotonic()
            await eventually(lambda: healths(seen) == [Health.DRAINING, Health.HEALTHY], "one drains", timeout=5)
            leaving = next(i for i in instances(seen).values() if i.health is Health.DRAINING)
            assert await serves(leaving)

            async def off_the_list() -> bool:
                listed = {r["AllocID"] for r in await nomad.get("/v1/service/web")}
                return leaving.provenance["allocation"] not in listed

            await eventually(off_the_list, "Nomad lists it no more, while it still serves", timeout=SHUTDOWN_DELAY / 2)
            assert await serves(leaving)
            await eventually(lambda: healths(seen) == [Health.HEALTHY], "one is left", timeout=20)
            assert time.monotonic() - began >= SHUTDOWN_DELAY - 0.5
            with pytest.raises(aiohttp.ClientError):
                await serves(leaving)

    async def test_a_restart_drains_and_warms_up(self, nomad: Nomad, state: Path) -> None:
        job = mk_job("web", mk_service("web", check=True), state=state, shutdown_delay=SHUTDOWN_DELAY)
        await nomad.run(job)
        async with reading(nomad) as (seen, _):
            await until_healthy(seen)
            (alloc,) = instances(seen)
            begin = len(seen.snapshots)
            (state / "all").touch()  # what the new task answers at first
            restart = asyncio.create_task(nomad.put(f"/v1/client/allocation/{alloc}/restart", {}))
            await eventually(lambda: healths(seen) == [Health.UNHEALTHY], "it warms up", timeout=20)
            await restart
            (state / "all").unlink()
            await until_healthy(seen)
        shown = [healths(_at(s)) for s in seen.snapshots[begin:]]
        after_drain = shown[shown.index([Health.DRAINING]) :]
        warm = after_drain.index([Health.UNHEALTHY])
        assert [Health.HEALTHY] not in after_drain[:warm], "it was not taken for healthy before its check had run"

    async def test_a_canary_gets_nothing_before_its_deployment_has_found_it_healthy(
        self, nomad: Nomad, state: Path
    ) -> None:
        """And is labelled until it is promoted; then the old ones drain."""
        update = DEPLOYMENT | {"Canary": 1, "MinHealthyTime": 2_000_000_000}
        service = mk_service("web", check=True)
        await nomad.run(mk_job("web", service, count=2, state=state, update=update, shutdown_delay=SHUTDOWN_DELAY))
        async with reading(nomad) as (seen, _):
            await until_healthy(seen, 2)
            old = set(instances(seen))

            async def deployed() -> bool:
                return {d["Status"] for d in await nomad.get("/v1/job/web/deployments")} == {"successful"}

            await eventually(deployed, "the first version is deployed", timeout=30, every=0.2)
            update_job = mk_job("web", service, count=2, state=state, update=update, shutdown_delay=SHUTDOWN_DELAY)
            update_job["TaskGroups"][0]["Tasks"][0]["Env"] = {"VERSION": "2"}
            await nomad.run(update_job)
            await eventually(lambda: len(instances(seen)) == 3, "a canary", timeout=20)
            (canary,) = instances(seen).keys() - old
            await eventually(
                lambda: (
                    instances(seen)[canary].provenance["health"] == "its deployment has not found the canary healthy"
                ),
                "its task runs",
            )
            assert health_of(seen, canary) is Health.UNHEALTHY
            assert instances(seen)[canary].labels["canary"] == "true"
            await eventually(lambda: health_of(seen, canary) is Health.HEALTHY, "it is found healthy", timeout=20)
            (running,) = [d for d in await nomad.get("/v1/job/web/deployments") if d["Status"] == "running"]
            await nomad.put(f"/v1/deployment/promote/{running['ID']}", {"DeploymentID": running["ID"], "All": True})
            await eventually(lambda: "canary" not in instances(seen)[canary].labels, "it is promoted")
            await eventually(
                lambda: {health_of(seen, a) for a in old} & {Health.DRAINING}, "an old one drains", timeout=20
            )
            await eventually(lambda: not old & instances(seen).keys(), "the old ones are gone", timeout=40)
            assert health_of(seen, canary) is Health.HEALTHY

    async def test_a_node_drain_is_noticed_before_the_allocations_are_stopped(self, nomad: Nomad) -> None:
        await nomad.run(mk_job("web", mk_service("web"), shutdown_delay=SHUTDOWN_DELAY))
        async with reading(nomad) as (seen, _):
            await until_healthy(seen)
            node = (await nomad.get("/v1/nodes"))[0]["ID"]
            await nomad.put(f"/v1/node/{node}/drain", {"DrainSpec": {"Deadline": 60_000_000_000}})
            try:
                await eventually(lambda: _reasons(seen) == ["its node drains"], "it drains")
                assert healths(seen) == [Health.DRAINING]
                await eventually(lambda: not instances(seen), "it is gone", timeout=30)
            finally:
                await nomad.put(f"/v1/node/{node}/drain", {"DrainSpec": None, "MarkEligible": True})
            await until_healthy(seen)

    async def test_a_purged_job_drains_too(self, nomad: Nomad) -> None:
        """No event tells the end of its allocations."""
        await nomad.run(mk_job("web", mk_service("web"), shutdown_delay=SHUTDOWN_DELAY))
        async with reading(nomad) as (seen, _):
            await until_healthy(seen)
            await nomad.stop_job("web")
            await eventually(lambda: seen.service("web") is None, "it is gone", timeout=20)
        assert [Health.DRAINING] in [healths(_at(s)) for s in seen.snapshots], "it drained"


class TestListing:
    async def test_a_listing_beside_the_watch_is_the_same(self, nomad: Nomad, state: Path) -> None:
        """Also while an instance drains that no list of Nomad's has any more."""
        job = mk_job("web", mk_service("web", check=True), count=2, state=state, shutdown_delay=SHUTDOWN_DELAY)
        await nomad.run(job)
        adapter = mk_adapter(nomad)
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots and healths(seen) == [Health.HEALTHY] * 2, "both", timeout=20)
            assert (await adapter.listing()).services == seen.latest.services
            await nomad.scale("web", "web", 1)
            await eventually(lambda: Health.DRAINING in healths(seen), "one drains")
            assert (await adapter.listing()).services == seen.latest.services

    async def test_a_second_adapter_finds_what_the_first_one_knows(self, nomad: Nomad, state: Path) -> None:
        """Health included, in its first snapshot."""
        await nomad.run(mk_job("web", mk_service("web", check=True), count=2, state=state))
        async with reading(nomad) as (first, _):
            await until_healthy(first, 2)
            ill = next(iter(instances(first)))
            (state / ill).touch()
            await eventually(lambda: health_of(first, ill) is Health.UNHEALTHY, "one is ill")
            async with reading(nomad) as (second, _):
                assert second.snapshots[0].services == first.latest.services


async def test_an_agent_that_wants_a_client_certificate(tmp_path: Path) -> None:
    """Both client libraries show it, and check whom they talk to."""

    def tls(*words: str) -> None:
        subprocess.run([find_nomad(), "tls", *words], cwd=tmp_path, check=True, capture_output=True)

    tls("ca", "create")
    tls("cert", "create", "-server", "-region", "global")
    tls("cert", "create", "-cli")
    files = {
        "ca_file": str(tmp_path / "nomad-agent-ca.pem"),
        "cert_file": str(tmp_path / "global-server-nomad.pem"),
        "key_file": str(tmp_path / "global-server-nomad-key.pem"),
    }
    nomad = Nomad(tmp_path / "nomad", {"tls": {"http": True, "rpc": False, "verify_https_client": True} | files})
    nomad.start()
    try:

        async def registered() -> bool:
            await nomad.register("default", "web", "web-1", "10.0.0.1", 8080)
            return True

        await eventually(registered, "Nomad has a leader and a node", timeout=60, every=0.2)
        good = {
            "address": nomad.address.replace("http:", "https:"),
            "ca_file": files["ca_file"],
            "cert_file": str(tmp_path / "global-cli-nomad.pem"),
            "key_file": str(tmp_path / "global-cli-nomad-key.pem"),
            "tls_server_name": "server.global.nomad",
        }
        async with reading(nomad, **good) as (seen, _):
            assert seen.service("web")
            assert seen.latest.quarantined == ()
        for bad, words in (
            ({"tls_server_name": "server.other.nomad"}, "not valid for 'server.other.nomad'"),
            ({"ca_file": ""}, "certificate verify failed"),
            ({"cert_file": "", "key_file": ""}, "certificate required|GET /v1/"),
            ({"cert_file": files["ca_file"]}, "key values mismatch|KEY_VALUES_MISMATCH"),
        ):
            async with reading_at_all(nomad, **good | bad) as (refused, _):
                await eventually(lambda: refused.error, f"refused with {bad}")
            assert re.search(words, str(refused.error)), str(refused.error)
            assert refused.snapshots == []
    finally:
        nomad.stop()


def _at(snapshot: Any) -> Following:
    """One snapshot as if nothing had come after it."""
    seen = Following(None)  # type: ignore[arg-type]  # nothing is iterated
    seen.snapshots = [snapshot]
    return seen


def _reasons(seen: Following) -> list[str]:
    return [i.provenance.get("health", "") for i in instances(seen).values()]
