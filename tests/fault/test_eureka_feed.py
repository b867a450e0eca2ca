"""The replica feed when it works, lies, or falls silent: changes come at once, and nobody dies of a silence."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from isthmus.registry.eureka import EurekaAdapter, EurekaConfig
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.servers.process import free_port
from tests.servers.scripted_eureka import ScriptedEureka, saying
from tests.wait import eventually

LEASE = {"renewalIntervalInSecs": 1, "durationInSecs": 3}
MIB = 1024 * 1024


class Fed:
    """A server, an adapter that reads it, and the feed by which the test tells it more."""

    def __init__(
        self, eureka: ScriptedEureka, seen: Following, adapter: EurekaAdapter, port: int, status: OriginStatus
    ) -> None:
        self.eureka = eureka
        self.seen = seen
        self.adapter = adapter
        self._status = status
        self.base = f"http://127.0.0.1:{port}"

    @property
    def state(self) -> str:
        """How the feed is, for people."""
        return self._status.feed

    async def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> int:
        """The status of one request."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.base + path, headers=headers, **more) as answer,
        ):
            return answer.status

    async def send(self, *changes: Mapping[str, Any], path: str = "/eureka/peerreplication/batch/") -> list[int]:
        """One batch, as a server posts it; the status of each change."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.base + path, json={"replicationList": changes}) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return [item["statusCode"] for item in (await answer.json())["responseList"]]

    async def heartbeat(self, *ids: str) -> list[int]:
        return await self.send(*(mk_change("Heartbeat", id_) for id_ in ids))

    @property
    def health(self) -> dict[str, str]:
        return {i.id: i.health.value for s in self.seen.latest.services.values() for i in s.instances}


def mk_change(action: str, id_: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "appName": "WEB", "id": id_, "lastDirtyTimestamp": 1} | more


@contextlib.asynccontextmanager
async def fed(*ids: str, feed: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Fed]:
    """A registry of these instances, read once and then by the feed; polls are a minute apart."""
    origin = Origin("spring", "eureka")
    port = free_port()
    async with ScriptedEureka() as eureka:
        for n, id_ in enumerate(ids, 1):
            eureka.put("web", id_, ipAddr=f"10.0.0.{n}", leaseInfo=dict(LEASE))
            eureka.renew(id_)
        said = {
            "addresses": [eureka.address],
            "poll_interval": 60,
            "feed": {"listen": f"127.0.0.1:{port}", "poll_interval": 60, **(feed or {})},
        }
        status = OriginStatus(origin)
        adapter = EurekaAdapter(origin, msgspec.convert(said | options, EurekaConfig), status)
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            yield Fed(eureka, seen, adapter, port, status)


async def test_changes_come_at_once() -> None:
    async with fed("web-1", "web-2") as world:
        world.eureka.put("web", "web-3", ipAddr="10.0.0.3")
        register = mk_change("Register", "web-3", instanceInfo=world.eureka.instances["web-3"])
        out = mk_change("StatusUpdate", "web-1", status="OUT_OF_SERVICE")
        assert await world.send(register, out, mk_change("Cancel", "web-2")) == [200] * 3
        await eventually(lambda: world.health == {"web-1": "draining", "web-3": "healthy"}, "the three changes")
        assert len(world.seen.snapshots) == 2, "a batch is one change"
        assert await world.send(mk_change("DeleteStatusOverride", "web-1", status="UP")) == [200]
        await eventually(lambda: world.health == {"web-1": "healthy", "web-3": "healthy"}, "the end of the override")
        assert world.eureka.asked["/apps/delta"] == 0, "without a poll"


@pytest.mark.parametrize("base", ["/eureka", "/eureka/v2"])
async def test_single_calls_mean_the_same(base: str) -> None:
    replica = {"x-netflix-discovery-replication": "true"}
    async with fed("web-1") as world:
        world.eureka.put("web", "web-2", ipAddr="10.0.0.2")
        body = json.dumps(world.eureka.instances["web-2"]).encode()
        json_too = replica | {"Content-Type": "application/json"}
        assert await world.request("POST", f"{base}/apps/WEB", json_too, data=body) == 204
        await eventually(lambda: "web-2" in world.health, "the registration")
        assert await world.request("PUT", f"{base}/apps/WEB/web-2?status=UP&lastDirtyTimestamp=1", replica) == 200
        assert await world.request("PUT", f"{base}/apps/WEB/web-9?status=UP&lastDirtyTimestamp=1", replica) == 404
        assert await world.request("PUT", f"{base}/apps/WEB/web-2/status?value=OUT_OF_SERVICE", replica) == 200
        await eventually(lambda: world.health["web-2"] == "draining", "the override")
        assert await world.request("DELETE", f"{base}/apps/WEB/web-2/status?value=UP", replica) == 200
        await eventually(lambda: world.health["web-2"] == "healthy", "its end")
        assert await world.request("DELETE", f"{base}/apps/WEB/web-2", replica) == 200
        await eventually(lambda: "web-2" not in world.health, "the cancellation")


async def test_what_is_not_known_is_asked_for_as_a_whole() -> None:
    """404 makes a server send the whole instance: so a gap heals with the next heartbeat."""
    async with fed("web-1") as world:
        assert await world.heartbeat("web-1", "web-2") == [200, 404]
        assert await world.send(mk_change("Heartbeat", "web-1", lastDirtyTimestamp=2)) == [404], "it has changed since"


async def test_a_change_that_makes_no_sense_is_refused_and_the_others_are_taken() -> None:
    async with fed("web-1", "web-2") as world:
        with capture_logs() as logs:
            bad = mk_change("Register", "web-3", instanceInfo={"port": "many"})
            assert await world.send(bad, mk_change("Cancel", "web-2")) == [400, 200]
        await eventually(lambda: world.health == {"web-1": "healthy"}, "the good change")
        assert [e["refused"] for e in logs if e["event"] == "eureka.feed_refused"] == [1]


async def test_whoever_has_no_password_is_turned_away() -> None:
    """Who may write here may invent instances."""
    login = {"user": "eureka", "password": "s3cret"}
    with capture_logs() as logs:
        await turned_away(login)
    unauthorized = [e for e in logs if e["event"] == "eureka.feed_unauthorized"]
    assert [(e["origin"], e["sender"]) for e in unauthorized] == [("spring", "127.0.0.1")], "said once, not each time"


async def turned_away(login: Mapping[str, str]) -> None:
    async with fed("web-1", feed=login) as world:
        paths = ["/eureka/peerreplication/batch/", "/eureka/apps/WEB", "/eureka/status"]
        assert [await world.request("POST", path, json={"replicationList": []}) for path in paths] == [401] * 3
        for wrong in ("Basic ZXVyZWthOndyb25n", "Basic ???", "Bearer s3cret", "Basic"):
            assert await world.request("POST", paths[0], {"Authorization": wrong}, json={}) == 401
        right = {"Authorization": "Basic ZXVyZWthOnMzY3JldA=="}
        assert world.state == "refused"
        assert await world.request("POST", paths[0], right, json={"replicationList": []}) == 200
        assert world.state == "refused", "an empty batch brings nothing"
        batch = {"replicationList": [mk_change("Heartbeat", "web-1")]}
        assert await world.request("POST", paths[0], right, json=batch) == 200
        assert world.state == "live"
        assert await world.request("POST", paths[0], json=batch) == 401
        assert world.state == "live", "one who is turned away does not silence the others"


async def test_clients_are_sent_on_to_a_real_server() -> None:
    """A server's own client may take the bridge for one, because it is in its list; 503 makes it ask the next."""
    async with fed("web-1") as world:
        assert await world.request("GET", "/eureka/apps/") == 503
        assert await world.request("POST", "/eureka/apps/WEB", json={"instance": {}}) == 503
        assert await world.request("DELETE", "/eureka/apps/WEB/web-1") == 503
        assert world.health == {"web-1": "healthy"}


async def test_what_is_too_large_or_no_json_is_refused() -> None:
    path = "/eureka/peerreplication/batch/"
    json_type = {"Content-Type": "application/json"}
    async with fed("web-1") as world:
        packed = json_type | {"Content-Encoding": "gzip"}
        assert await world.request("POST", path, packed, data=gzip.compress(b" " * (17 * MIB))) == 413
        assert await world.request("POST", path, {"Content-Type": "application/xml"}, data=b"<a/>") == 415
        for body in (b"{", b"[]", b"\xff", b'{"replicationList": 7}'):
            assert await world.request("POST", path, json_type, data=body) == 400
        assert world.health == {"web-1": "healthy"}


async def test_polls_do_not_undo_what_the_feed_brought() -> None:
    """A server answers polls from a cache that is up to half a minute old."""
    async with fed("web-1", poll_interval=0.1, feed={"poll_interval": 0.1}) as world:
        assert await world.send(mk_change("StatusUpdate", "web-1", status="OUT_OF_SERVICE")) == [200]
        await eventually(lambda: world.health == {"web-1": "draining"}, "the override")
        polls = world.eureka.asked["/apps/delta"]
        await eventually(lambda: world.eureka.asked["/apps/delta"] > polls + 3, "some polls")
        assert world.health == {"web-1": "draining"}
        assert len(world.seen.snapshots) == 2


async def test_an_instance_that_has_missed_its_heartbeats_is_unhealthy() -> None:
    """The server has had no renewal either. It keeps the instance for minutes yet."""
    async with fed("web-1", "web-2") as world:

        async def only_the_first_lives() -> bool:
            world.eureka.renew("web-1")
            assert await world.heartbeat("web-1") == [200]
            return world.health["web-2"] == "unhealthy"

        assert await world.heartbeat("web-1", "web-2") == [200, 200]
        await eventually(only_the_first_lives, "three heartbeats are missing", every=0.3)
        assert world.health == {"web-1": "healthy", "web-2": "unhealthy"}
        assert world.eureka.asked["/apps/WEB/web-1"] == 0
        assert await world.heartbeat("web-2") == [200]
        await eventually(lambda: world.health["web-2"] == "healthy", "it is back")


async def test_an_instance_that_renews_with_a_server_that_does_not_feed_us_lives() -> None:
    async with fed("web-1", "web-2") as world:

        async def asked_twice() -> bool:
            for id_ in ("web-1", "web-2"):
                world.eureka.renew(id_)
            await world.heartbeat("web-1")
            return world.eureka.asked["/apps/WEB/web-2"] >= 3

        assert await world.heartbeat("web-1", "web-2") == [200, 200]
        await eventually(asked_twice, "the server was asked about it", timeout=20, every=0.3)
        assert world.health == {"web-1": "healthy", "web-2": "healthy"}
        assert len(world.seen.snapshots) == 1


async def test_a_server_that_cannot_be_asked_makes_nobody_dead() -> None:
    async with fed("web-1", "web-2") as world:
        world.eureka.instead["/apps/WEB/web-2"] = saying(500)

        async def asked() -> bool:
            await world.heartbeat("web-1")
            return world.eureka.asked["/apps/WEB/web-2"] >= 5

        assert await world.heartbeat("web-1", "web-2") == [200, 200]
        await eventually(asked, "the server was asked about it", every=0.3)
        assert world.health == {"web-1": "healthy", "web-2": "healthy"}


async def test_a_feed_that_falls_silent_is_a_state_and_no_mass_death() -> None:
    """Polls take over at once, and at their quicker pace."""
    with capture_logs() as logs:
        async with fed("web-1", "web-2", poll_interval=0.2, feed={"silent_after": 1}) as world:
            assert await world.heartbeat("web-1", "web-2") == [200, 200]
            states = [world.state]
            await eventually(lambda: world.eureka.asked["/apps/delta"] >= 3, "polls instead of the feed")
            states.append(world.state)
            assert world.health == {"web-1": "healthy", "web-2": "healthy"}
            assert len(world.seen.snapshots) == 1
            assert await world.heartbeat("web-1") == [200]
            states.append(world.state)
        states.append(world.state)
    assert states == ["live", "silent", "live", "closed"]
    events = [(e["event"], e.get("before"), e.get("ever_heard")) for e in logs if "feed" in e["event"]]
    assert events == [
        ("eureka.feed_heard", "waiting", None),
        ("eureka.feed_silent", None, True),
        ("eureka.feed_heard", "silent", None),
    ]


async def test_a_feed_that_never_brings_anything_is_said() -> None:
    """The servers were not told of the bridge, perhaps; everything else goes on by polls."""
    with capture_logs() as logs:
        async with fed("web-1", poll_interval=0.2, feed={"silent_after": 0.5}) as world:
            await eventually(lambda: any(e["event"] == "eureka.feed_silent" for e in logs), "it is said")
            world.eureka.put("web", "web-2", ipAddr="10.0.0.2")
            await eventually(lambda: "web-2" in world.health, "a change by a poll")
    assert [e["ever_heard"] for e in logs if e["event"] == "eureka.feed_silent"] == [False]


async def test_an_address_that_cannot_be_listened_on_is_said_and_polls_go_on() -> None:
    async with fed("web-1") as world:
        port = int(world.base.rpartition(":")[2])
        origin = Origin("second", "eureka")
        said = {"addresses": [world.eureka.address], "poll_interval": 0.1, "feed": {"listen": f"127.0.0.1:{port}"}}
        status = OriginStatus(origin)
        second = EurekaAdapter(origin, msgspec.convert(said, EurekaConfig), status)
        with capture_logs() as logs:
            async with following(second) as seen:
                await eventually(lambda: seen.snapshots, "a first snapshot")
                world.eureka.put("web", "web-2", ipAddr="10.0.0.2")
                await eventually(lambda: len(seen.addresses("web")) == 2, "a change by a poll")
                assert status.feed == "unavailable"
        assert [e["event"] for e in logs] == ["eureka.feed_unavailable"]


async def test_an_audit_finds_no_difference_in_what_only_the_feed_knows() -> None:
    async with fed("web-1", "web-2") as world:
        await world.send(mk_change("StatusUpdate", "web-1", status="OUT_OF_SERVICE"), mk_change("Cancel", "web-2"))
        await eventually(lambda: world.health == {"web-1": "draining"}, "the changes")
        assert (await world.adapter.listing()).services == world.seen.latest.services
