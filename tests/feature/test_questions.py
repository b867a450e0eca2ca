"""Questions of operators, over HTTP, to a whole bridge with a proxy's stream."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from isthmus.bridge.config import ConsulRegistry, MergeConfig
from isthmus.registry.doubt import DoubtRules
from isthmus.registry.drain import DrainRules
from isthmus.registry.guard import GuardRules
from tests.feature.client import EDS
from tests.feature.conftest import World
from tests.wait import eventually

YAML = """
services:
- name: {name}
  ports: [{{name: http, number: 80, protocol: http}}]
  instances:
  - {{id: one, address: 10.0.0.1}}
  - {{id: sick, address: 10.0.0.2, health: unhealthy}}
  - {{id: idle, address: 10.0.0.3, weight: 0}}
"""
CLUSTER = "outbound|80||reviews.default.mesh"


@pytest.fixture
async def asked(world: World) -> World:
    world.folder.mkdir()
    (world.folder / "reviews.yaml").write_text(YAML.format(name="reviews"))
    await world.start()
    await eventually(lambda: world.bridge.published.catalog.services, "the service is known")
    return world


async def ask(world: World, path: str, status: int = 200, method: str = "GET", **params: str) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{world.bridge.http_address}{path}", params=params) as answer,
    ):
        document = json.loads(await answer.text())
        assert answer.status == status, document
        return document if status == 200 else document["error"]


async def explain(world: World, endpoint: str, service: str = "reviews") -> dict[str, Any]:
    walk: dict[str, Any] = await ask(world, "/debug/explain", service=service, endpoint=endpoint)
    return walk


def stages(walk: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(s["stage"], s["where"], s["verdict"]) for s in walk["stages"]]


async def two_registries(world: World, **changes: Any) -> None:
    """`first` and `second`, of files, each of which knows reviews at 10.0.0.1."""
    for name in ("first", "second"):
        world.write("reviews", "10.0.0.1", folder=world.directory / name)
    world.configure(registries=(world.registry("first"), world.registry("second")), **changes)
    await world.start()
    await eventually(lambda: not world.bridge.hub.unsynced, "both are known")


class TestExplain:
    @pytest.mark.parametrize(
        ("endpoint", "answer"),
        [
            ("10.0.0.1:80", "proxy (-): no proxy is connected"),
            ("10.0.0.2:80", "health (local): unhealthy"),
            ("10.0.0.3:80", "health (local): healthy, but its registry gives it the weight 0"),
            (
                "10.0.0.9:80",
                "no registry lists it: local lists the service at 10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, not there",
            ),
            (
                "10.0.0.1:81",
                "no registry lists it: local lists the service at 10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, not there",
            ),
        ],
    )
    async def test_why_an_endpoint_gets_no_requests(self, asked: World, endpoint: str, answer: str) -> None:
        walk = await explain(asked, endpoint)

        assert (walk["serving"], walk["answer"]) == (False, f"it gets no requests: {answer}")

    async def test_a_service_that_nobody_lists(self, asked: World) -> None:
        walk = await explain(asked, "10.0.0.1:80", "ratings")

        assert walk["answer"] == "it gets no requests: no registry lists it: local does not list the service"

    async def test_the_whole_way_to_a_proxy(self, asked: World) -> None:
        """It has the endpoint once it has acknowledged it, and not before."""
        client = await asked.client(node="web-1")
        await client.subscribe(EDS, [CLUSTER])
        answer = await client.expect(EDS)

        sent = await explain(asked, "10.0.0.1:80")
        await client.ack(answer)

        async def serving() -> bool:
            return bool((await explain(asked, "10.0.0.1:80"))["serving"])

        await eventually(serving, "the acknowledgement is known")
        walk = await explain(asked, "10.0.0.1:80")
        assert (sent["serving"], sent["answer"]) == (
            False,
            "no proxy has acknowledged it: proxy (web-1): was sent it and has not acknowledged it yet",
        )
        assert walk["answer"] == "it gets requests: web-1 has acknowledged it"
        assert stages(walk) == [
            ("registry", "local", "passed"),
            ("health", "local", "passed"),
            ("merge", "catalog", "passed"),
            ("translate", CLUSTER, "passed"),
            ("proxy", "web-1", "passed"),
        ]

    async def test_the_conventions_that_were_applied(self, world: World) -> None:
        world.folder.mkdir()
        said = "id: one, address: 10.0.0.1, provenance: {conventions: 'spring, traefik'}"
        (world.folder / "reviews.yaml").write_text(
            YAML.format(name="reviews").replace("id: one, address: 10.0.0.1", said)
        )
        await world.start()
        await eventually(lambda: world.bridge.published.catalog.services, "the service is known")

        read, *_ = (await explain(world, "10.0.0.1:80"))["stages"]
        assert read["text"].endswith("; read by the conventions spring, traefik")

    async def test_one_proxy_of_two(self, asked: World) -> None:
        """The other one refused: it is named, with what it said."""
        good, bad = await asked.client(node="good"), await asked.client(node="bad")
        for client in (good, bad):
            await client.subscribe(EDS, [CLUSTER])
        await good.take(EDS)
        await bad.nack(await bad.expect(EDS), "no such health")

        async def refused() -> bool:
            return "no such health" in str(await explain(asked, "10.0.0.1:80"))

        await eventually(refused, "the refusal is known")
        walk = await explain(asked, "10.0.0.1:80")
        assert walk["serving"] is False
        assert walk["answer"].startswith("only 1 of 2 proxies has acknowledged it: proxy (bad): ")
        assert "no such health" in walk["answer"]

    async def test_an_instance_that_is_held(self, world: World) -> None:
        """Its registry came back without it: it gets requests all the same, and the guard says why and for how long."""
        world.configure(guard=GuardRules(hold=300))
        world.write("reviews", "10.0.0.1", "10.0.0.2", "10.0.0.3")
        await world.started()
        client = await world.client(node="web-1")
        await client.subscribe(EDS, [CLUSTER])
        await client.take(EDS)
        world.folder.rename(world.directory / "away")
        await eventually(lambda: world.bridge.hub.statuses["local"].error, "it cannot be read")
        stale = await explain(world, "10.0.0.2:80")

        world.write("reviews", "10.0.0.1")
        await eventually(lambda: world.bridge.hub.holds, "two are held")
        walk = await explain(world, "10.0.0.2:80")

        assert "; stale for 0 s: " in stale["stages"][0]["text"]
        assert walk["serving"] is True
        assert walk["answer"].startswith(
            "it gets requests: web-1 has acknowledged it; guard (local): it is held for another "
        )
        assert walk["answer"].endswith(" s: only 1 of 3 instances were left after an interruption")
        assert [s[2] for s in stages(walk)[:3]] == ["passed", "passed", "changed"]

    async def test_an_instance_that_is_leaving(self, world: World) -> None:
        world.configure(drain=DrainRules(grace=300))
        world.write("reviews", "10.0.0.1", "10.0.0.2")
        await world.started()

        world.write("reviews", "10.0.0.1")
        await eventually(lambda: world.bridge.hub.sources["local"].leaving, "it is leaving")
        walk = await explain(world, "10.0.0.2:80")

        assert walk["serving"] is False
        assert walk["answer"].startswith("it gets no requests: drain (local): it finishes what it has, for another ")
        assert ("translate", CLUSTER, "passed") in stages(walk), "Envoy keeps its connections"

    async def test_an_object_that_could_not_be_used(self, asked: World) -> None:
        (asked.folder / "ratings.yaml").write_text(YAML.format(name="ratings").replace("number: 80", "number: 99999"))
        await eventually(lambda: asked.bridge.hub.statuses["local"].quarantined, "it is left out")

        walk = await explain(asked, "10.0.0.1:80", "ratings")

        assert stages(walk) == [("filter", "local", "dropped")]
        assert "ratings.yaml:" in walk["answer"]
        assert "65535" in walk["answer"]

    async def test_the_same_place_in_two_registries(self, world: World) -> None:
        """The first one's word counts; what the other says does not hinder."""
        await two_registries(world)
        file = world.directory / "second" / "reviews.yaml"
        file.write_text(file.read_text().replace("address: 10.0.0.1", "address: 10.0.0.1\n    health: unhealthy"))
        client = await world.client(node="web-1")
        await client.subscribe(EDS, [CLUSTER])
        await client.take(EDS)

        async def unhealthy() -> bool:
            return ("health", "second", "changed") in stages(await explain(world, "10.0.0.1:80"))

        await eventually(unhealthy, "the second says so")
        walk = await explain(world, "10.0.0.1:80")
        (merged,) = (s for s in walk["stages"] if s["stage"] == "merge")
        assert walk["serving"] is True
        assert merged["text"] == "is instance reviews-10.0.0.1 of first, weight 1; second lists the same place"

    async def test_a_registry_without_a_share(self, world: World) -> None:
        """`merge.weights` gives the first one no requests of services that both know."""
        world.write("reviews", "10.0.0.7", folder=world.directory / "first")
        await two_registries(world, merge=MergeConfig({"first": 0}))
        world.write("reviews", "10.0.0.2", folder=world.directory / "second")

        async def without() -> bool:
            return ("merge", "catalog", "changed") in stages(await explain(world, "10.0.0.1:80"))

        await eventually(without, "the weights are known")
        answer = (await explain(world, "10.0.0.1:80"))["answer"]
        assert answer.startswith(
            "it gets no requests: merge (catalog): is instance reviews-10.0.0.1 of first, weight 0"
        )
        assert answer.endswith(": merge.weights gives first no requests")

    async def test_an_instance_that_doubt_has_removed(self, world: World) -> None:
        """The operator does not want loopback addresses: the stage that took it out is named, and it is counted."""
        world.configure(doubt=DoubtRules(("Loopback",)))
        world.write("reviews", "10.0.0.1", "127.0.0.1")
        await world.started()

        walk = await explain(world, "127.0.0.1:80")

        assert walk["serving"] is False
        assert walk["answer"] == (
            "it gets no requests: doubt (local): taken out, for doubt.remove has Loopback: reviews-127.0.0.1 is at a loopback "
            "address, which is another machine to every caller"
        )
        assert stages(walk) == [
            ("registry", "local", "passed"),
            ("health", "local", "passed"),
            ("doubt", "local", "dropped"),
        ]
        (registry,) = await ask(world, "/debug/registries")
        assert registry["removed"] == 1
        assert await world.metric("isthmus_registry_removed", origin="local", kind="file") == 1
        (found,) = await ask(world, "/debug/doctor")
        assert (found["code"], found["subject"]) == ("Removed", "reviews.default, instance reviews-127.0.0.1")

    async def test_the_last_instance_is_not_removed_for_being_doubtful(self, world: World) -> None:
        """Nor is one that comes into doubt when the others have left; and a reload takes other rules over."""
        world.configure(doubt=DoubtRules(("Loopback",)))
        world.write("reviews", "10.0.0.1", "127.0.0.1")
        await world.started()
        assert len(self.addresses(world)) == 1
        world.write("reviews", "127.0.0.1")
        await eventually(lambda: self.addresses(world) == ["127.0.0.1"], "the last one stays")
        world.write("reviews", "10.0.0.1", "127.0.0.1")
        await eventually(lambda: self.addresses(world) == ["10.0.0.1"], "it is removed again")

        await world.bridge.reload(world.configure(doubt=DoubtRules()))

        await eventually(lambda: len(self.addresses(world)) == 2, "nothing is removed any more")

    @staticmethod
    def addresses(world: World) -> list[str]:
        return [i.address for s in world.bridge.published.catalog.services.values() for i in s.instances]

    async def test_a_port_that_the_service_has_not(self, world: World) -> None:
        """Two registries name different ports; the first one's are the service's."""
        await two_registries(world)
        (world.directory / "second" / "reviews.yaml").write_text(
            "services: [{name: reviews, ports: [{name: http, number: 80}, {name: admin, number: 90}],"
            " instances: [{id: a, address: 10.0.0.5, ports: {admin: 9000}}]}]"
        )

        async def lost() -> bool:
            return "loses" in str(await explain(world, "10.0.0.5:9000"))

        await eventually(lost, "it is lost in merging")
        answer = (await explain(world, "10.0.0.5:9000"))["answer"]
        assert answer == (
            "it gets no requests: merge (catalog): its port is none of the service's: "
            "second: http 80/http, admin 90/tcp loses to first: http 80/http"
        )

    async def test_addresses_may_be_written_otherwise(self, world: World) -> None:
        """IPv6 in brackets and in any spelling, host names in any case, sockets."""
        world.write("six", "2001:db8::1")
        world.write("named", "db.example")
        (world.folder / "socket.yaml").write_text(
            "services: [{name: socket, ports: [{name: http, number: 80}], instances: [{address: 'unix:///run/a.sock'}]}]"
        )
        await world.started()
        await eventually(lambda: len(world.bridge.published.catalog.services) == 3, "all are known")

        for service, endpoint in (
            ("six", "[2001:DB8:0::1]:80"),
            ("named", "DB.example:80"),
            ("socket", "unix:///run/a.sock"),
        ):
            walk = await explain(world, endpoint, service)
            assert walk["answer"] == "it gets no requests: proxy (-): no proxy is connected", service


class TestRegistries:
    async def test_how_each_is_doing(self, world: World) -> None:
        world.configure(guard=GuardRules(hold=300))
        world.write("reviews", "10.0.0.1", "10.0.0.2", "10.0.0.3")
        nobody = ConsulRegistry(name="consul", address="http://127.0.0.1:1", max_connections=50)
        world.configure(registries=(nobody, world.registry("local", world.folder)), sync_timeout=0)
        await world.started()
        await eventually(lambda: world.bridge.hub.statuses["consul"].error, "it was tried")

        consul, local = await ask(world, "/debug/registries")

        assert [r["name"] for r in (consul, local)] == ["consul", "local"], "in order of precedence"
        assert (consul["kind"], consul["address"], consul["synced"]) == ("consul", "http://127.0.0.1:1", False)
        assert (consul["max_connections"], local["max_connections"]) == (50, None)
        assert "127.0.0.1:1" in consul["error"]
        assert (local["address"], local["synced"], local["stale_for_s"]) == (str(world.folder), True, None)
        assert (local["services"], local["instances"], local["held"], local["drift"]) == (1, 3, 0, 0)
        assert local["cursor"]
        assert local["reads_last_minute"] == world.bridge.hub.statuses["local"].reads >= 1

    async def test_another_address_is_shown_after_a_reload(self, world: World) -> None:
        await world.started()

        await world.bridge.reload(world.configure(registries=(world.registry("local", world.directory / "other"),)))

        (local,) = await ask(world, "/debug/registries")
        assert local["address"] == str(world.directory / "other")

    async def test_parity(self, world: World) -> None:
        await two_registries(world)
        world.write("reviews", "10.0.0.1", "10.0.0.4", folder=world.directory / "second")

        async def differ() -> bool:
            return bool((await ask(world, "/debug/parity", first="first", second="second"))["differences"])

        await eventually(differ, "the change is known")
        found = await ask(world, "/debug/parity", first="first", second="second")
        assert found["differences"] == [
            {"service": "reviews.default", "what": "10.0.0.4:80", "first": "", "second": "healthy"}
        ]

    async def test_a_service_moves_from_one_registry_to_the_other(self, world: World) -> None:
        """The second one lists it already when the first one lets it go: it is not drained for that."""
        await two_registries(world, drain=DrainRules(grace=300))

        (world.directory / "first" / "reviews.yaml").unlink()
        await eventually(lambda: world.bridge.hub.sources["first"].leaving, "the first has let it go")

        async def moved() -> bool:
            return "of second" in str(await explain(world, "10.0.0.1:80"))

        await eventually(moved, "it is the second one's")
        (service,) = (await ask(world, "/debug/catalog"))["services"]
        assert [(i["origin"], i["health"]) for i in service["instances"]] == [("second", "healthy")]


class TestHolds:
    @pytest.fixture
    async def holding(self, world: World) -> World:
        world.configure(guard=GuardRules(hold=300), drain=DrainRules(grace=300))
        for name in ("reviews", "ratings"):
            world.write(name, "10.0.0.1", "10.0.0.2")
        await world.started()
        world.folder.rename(world.directory / "away")
        await eventually(lambda: world.bridge.hub.statuses["local"].error, "it cannot be read")
        world.write("details", "10.0.0.9")
        await eventually(lambda: world.bridge.hub.holds, "all are held")
        return world

    async def test_they_are_listed_with_their_reason(self, holding: World) -> None:
        holds = await ask(holding, "/debug/holds")

        assert [(h["service"], h["instance"], h["origin"], h["address"]) for h in holds] == [
            (f"{name}.default", f"{name}-{a}", "local", a)
            for name in ("ratings", "reviews")
            for a in ("10.0.0.1", "10.0.0.2")
        ]
        assert "1 of 4" in holds[0]["reason"]
        assert 290 < holds[0]["ends_in_s"] <= 300

    async def test_one_service_is_released(self, holding: World) -> None:
        """Its instances leave as all do, by draining; the others stay."""
        assert await ask(holding, "/holds/release", method="POST", service="reviews") == {
            "service": "reviews.default",
            "instances": 2,
        }

        catalog = await ask(holding, "/debug/catalog")
        assert {h["service"] for h in catalog["holds"]} == {"ratings.default"}
        assert [(x["service"], x["instance"]) for x in catalog["leaving"]] == [
            ("reviews.default", f"reviews-{a}") for a in ("10.0.0.1", "10.0.0.2")
        ]
        said = await ask(holding, "/holds/release", 404, "POST", service="reviews")
        assert said == "nothing is held of reviews; held are instances of ratings.default"

    async def test_nothing_is_released_by_asking(self, holding: World) -> None:
        """Only by a POST: a page that is merely fetched changes nothing."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{holding.bridge.http_address}/holds/release?service=reviews") as answer,
        ):
            assert answer.status == 405
        assert len(holding.bridge.hub.holds) == 4


class TestDoctor:
    async def codes(self, world: World) -> list[str]:
        return [f["code"] for f in await ask(world, "/debug/doctor")]

    async def test_what_is_doubtful(self, asked: World) -> None:
        (asked.folder / "ratings.yaml").write_text(YAML.format(name="ratings"))
        await eventually(lambda: len(asked.bridge.published.catalog.services) == 2, "both are known")

        assert await self.codes(asked) == ["SharedAddress"]

    async def test_a_sound_world_on_one_machine(self, world: World) -> None:
        world.write("reviews", "127.0.0.1")
        await world.started()

        assert await self.codes(world) == []

    async def test_registries_and_proxies_come_first(self, world: World) -> None:
        """What cannot be read, what is held, who refuses: before what is merely doubtful."""
        world.configure(guard=GuardRules(hold=300))
        world.write("reviews", "10.0.0.1", "10.0.0.2", "10.0.0.3")
        nobody = ConsulRegistry(name="consul", address="http://127.0.0.1:1")
        world.configure(registries=(nobody, world.registry("local", world.folder)), sync_timeout=0)
        await world.started()
        client = await world.client(node="web-1")
        await client.subscribe(EDS, [CLUSTER])
        await client.nack(await client.expect(EDS), "no such health")
        world.folder.rename(world.directory / "away")
        await eventually(lambda: world.bridge.hub.statuses["local"].error, "it cannot be read")
        stale = await self.codes(world)
        world.write("lonely")
        await eventually(lambda: len(world.bridge.published.catalog.services) == 2, "it is read, and all are held")

        findings = await ask(world, "/debug/doctor")

        assert stale == ["NotListed", "Stale", "Rejected"]
        assert [(f["code"], f["subject"]) for f in findings] == [
            ("NotListed", "consul"),
            ("Held", "local"),
            ("Rejected", "web-1"),
            ("NoInstances", "lonely.default"),
        ]
        assert all(f["text"] and f["fix"] for f in findings)


@pytest.mark.parametrize(
    ("path", "params", "status", "text"),
    [
        ("/debug/explain", {"service": "reviews"}, 400, "needs the parameter endpoint"),
        ("/debug/explain", {"service": "reviews", "endpoint": "nonsense"}, 400, "expected ADDRESS:PORT"),
        ("/debug/explain", {"service": "reviews", "endpoint": "a:0"}, 400, "expected ADDRESS:PORT"),
        ("/debug/explain", {"service": "reviews", "endpoint": "a:65536"}, 400, "expected ADDRESS:PORT"),
        ("/debug/parity", {"first": "local", "second": "eureka"}, 404, "no registry eureka; there are local"),
    ],
)
async def test_a_wrong_question_is_answered_with_a_sentence(
    asked: World, path: str, params: dict[str, str], status: int, text: str
) -> None:
    assert text in await ask(asked, path, status, **params)


async def test_a_registry_that_was_not_listed_yet_cannot_be_compared(world: World) -> None:
    world.folder.mkdir()
    nobody = ConsulRegistry(name="consul", address="http://127.0.0.1:1")
    world.configure(registries=(world.registry("local", world.folder), nobody), sync_timeout=0)
    await world.start()
    await eventually(lambda: world.bridge.hub.statuses["consul"].error, "it was tried")

    said = await ask(world, "/debug/parity", 409, first="local", second="consul")

    assert said.startswith("registry consul has not been listed yet: ")


async def test_a_name_in_two_namespaces_must_be_said_whole(world: World) -> None:
    world.write("reviews", "10.0.0.1")
    world.folder.joinpath("other.yaml").write_text(
        "services: [{name: reviews, namespace: other, ports: [{name: http, number: 80}]}]"
    )
    await world.started()
    await eventually(lambda: len(world.bridge.published.catalog.services) == 2, "both are known")

    said = await ask(world, "/debug/explain", 409, service="reviews", endpoint="10.0.0.1:80")

    assert said == "reviews is in several namespaces; say which: reviews.default, reviews.other"
    assert (await explain(world, "10.0.0.1:80", "reviews.other"))["service"] == "reviews.other"
