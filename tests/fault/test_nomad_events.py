"""The Nomad adapter against a Nomad that loses events, ends streams, refuses and stalls as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from isthmus.registry.model import Health, Instance, Origin
from isthmus.registry.nomad import NomadAdapter, NomadConfig
from isthmus.registry.nomad import http as nomad_http
from isthmus.registry.nomad import reading as nomad_reading
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.servers.nomad_scripted import ScriptedNomad, answering
from tests.wait import eventually


@pytest.fixture
async def nomad() -> AsyncIterator[ScriptedNomad]:
    async with ScriptedNomad() as nomad:
        yield nomad


def mk_adapter(nomad: ScriptedNomad, **options: object) -> tuple[NomadAdapter, OriginStatus]:
    origin = Origin("global", "nomad")
    stats = OriginStatus(origin)
    settings: dict[str, Any] = {"address": nomad.address, "heartbeat": 0.3, "check_interval": 0.1} | options
    return NomadAdapter(origin, NomadConfig(**settings), stats), stats


@contextlib.asynccontextmanager
async def reading(nomad: ScriptedNomad, **options: object) -> AsyncIterator[Following]:
    async with following(mk_adapter(nomad, **options)[0]) as seen:
        await eventually(lambda: seen.snapshots or seen.error, "a first snapshot")
        assert seen.error is None
        yield seen


def instances(seen: Following, service: str = "web") -> dict[str, Instance]:
    found = seen.service(service) if seen.snapshots else None
    return {i.provenance["allocation"]: i for i in found.instances} if found else {}


def health(seen: Following, alloc: str, service: str = "web") -> Health | None:
    found = instances(seen, service).get(alloc)
    return found.health if found else None


class TestStream:
    @pytest.mark.parametrize("said", [b"", b"subscription closed by server, client should resubscribe"])
    async def test_a_stream_that_ends_is_an_error_for_events_may_be_missed(
        self, nomad: ScriptedNomad, said: bytes
    ) -> None:
        """As when an ACL changes, a reader is slow, a snapshot is restored. What was missed is in the listing after it."""
        await nomad.run("web", "a1", "a2")
        adapter, _ = mk_adapter(nomad)
        async with following(adapter) as seen:
            await eventually(lambda: len(instances(seen)) == 2, "both instances")
            await nomad.deregister("a1", silently=True)
            await nomad.set_allocation("a1", client="complete", silently=True)
            await nomad.end_streams(said)
            await eventually(lambda: seen.error, "it is noticed")
            assert "the server has ended the stream" in str(seen.error)
            assert said.decode() in str(seen.error)
        async with following(adapter) as again:
            await eventually(lambda: instances(again).keys() == {"a2"}, "what was missed")

    @pytest.mark.parametrize(
        "line",
        [
            b'{"Index": 99, "Events": [\n',
            b"no JSON\n",
            b'{"Index": 99, "Events": 7}\n',
        ],
    )
    async def test_a_line_that_cannot_be_read_is_an_error(self, nomad: ScriptedNomad, line: bytes) -> None:
        await nomad.run("web", "a1")
        async with reading(nomad) as seen:
            await nomad.send_line(line)
            await eventually(lambda: seen.error, "it is noticed")
            assert "cannot be read" in str(seen.error)

    async def test_an_index_that_goes_back_is_an_error(self, nomad: ScriptedNomad) -> None:
        await nomad.run("web", "a1")
        async with reading(nomad) as seen:
            await nomad.send_line(b'{"Index": 3, "Events": []}\n')
            await eventually(lambda: seen.error, "it is noticed")
            assert "went back" in str(seen.error)

    async def test_a_silent_stream_is_an_error(self, nomad: ScriptedNomad, monkeypatch: pytest.MonkeyPatch) -> None:
        """Although the agent answers everything else."""
        monkeypatch.setattr(nomad_http, "SILENCE", 0.5)
        await nomad.run("web", "a1")
        async with reading(nomad) as seen:
            await eventually(lambda: seen.error, "it is noticed")
            assert "not even an empty line" in str(seen.error)

    async def test_bytes_that_are_no_line_are_no_sign_of_life(
        self, nomad: ScriptedNomad, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stream that trickles, in the middle of an event, while the agent answers everything else."""
        monkeypatch.setattr(nomad_http, "SILENCE", 0.5)
        await nomad.run("web", "a1")
        async with reading(nomad) as seen:

            async def noticed() -> bool:
                await nomad.send_line(b" ")
                return seen.error is not None

            await eventually(noticed, "it is noticed", 20)
            assert "not even an empty line" in str(seen.error)
            assert set(instances(seen)) == {"a1"}

    async def test_heartbeats_are_enough(self, nomad: ScriptedNomad, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nomad_http, "SILENCE", 0.5)
        await nomad.run("web", "a1")
        async with reading(nomad) as seen:
            for _ in range(4):
                before = nomad.calls["/v1/namespaces"]
                await nomad.send_line(b"{}\n")
                await eventually(lambda: nomad.calls["/v1/namespaces"] > before, "some time has passed")  # noqa: B023
            assert seen.error is None

    async def test_what_happens_during_the_listing_is_not_lost(self, nomad: ScriptedNomad) -> None:
        """Nor does an old event bring back what a later answer no longer has."""
        await nomad.run("web", "a1", "a2")
        await nomad.deregister("a2")
        listing, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_: web.Request) -> web.StreamResponse:
            listing.set()
            await go_on.wait()
            return web.json_response(["global"])

        nomad.answers["/v1/regions"] = slow
        async with following(mk_adapter(nomad, heartbeat=5)[0]) as seen:
            await listing.wait()
            await nomad.run("api", "b1")
            await nomad.deregister("a1")
            await nomad.set_allocation("a1", client="complete")
            go_on.set()
            await eventually(lambda: instances(seen, "api").keys() == {"b1"}, "what came")
            assert all(s.key.name != "web" or not s.instances for s in seen.latest.services.values())

    async def test_instances_that_go_with_their_node_go_at_one_index(self, nomad: ScriptedNomad) -> None:
        """Nomad's event then has the type of what befell the node."""
        await nomad.run("web", "a1", "a2")
        await nomad.run("api", "b1")
        async with reading(nomad) as seen:
            await nomad.set_allocation("a1", client="lost")
            await nomad.deregister("a1", type_="NodeStreamEvent")
            await eventually(lambda: instances(seen).keys() == {"a2"}, "it is gone")
            assert instances(seen, "api").keys() == {"b1"}

    async def test_a_new_namespace_needs_a_new_stream(self, nomad: ScriptedNomad) -> None:
        """Which takes the place of the old one only when it is there: nothing is missed, and nothing ends."""
        await nomad.run("web", "a1")
        async with reading(nomad, namespace="*") as seen:
            await nomad.set_namespaces("default", "team-a")
            await eventually(lambda: nomad.calls["/v1/event/stream"] == 2, "it subscribes again")
            await nomad.run("web", "a2")
            await eventually(lambda: instances(seen).keys() == {"a1", "a2"}, "events are followed")
            await eventually(lambda: nomad.streams == 1, "the old stream is closed")
            assert seen.error is None


class TestWithoutStream:
    """Blocking queries take its place: an old version, or no right to it."""

    @pytest.fixture
    async def nomad(self) -> AsyncIterator[ScriptedNomad]:
        async with ScriptedNomad() as nomad:
            nomad.answers["/v1/event/stream"] = answering(404)
            yield nomad

    async def test_everything_is_followed_all_the_same(self, nomad: ScriptedNomad) -> None:
        await nomad.run("web", "a1", "a2")
        async with reading(nomad) as seen:
            assert [q.where for q in seen.latest.quarantined] == ["event stream"]
            await nomad.run("api", "b1")
            await eventually(lambda: health(seen, "b1", "api") is Health.HEALTHY, "a new service")
            await nomad.set_allocation("a1", desired="stop")
            await eventually(lambda: health(seen, "a1") is Health.DRAINING, "it is told to stop")
            await nomad.deregister("a1")
            await nomad.set_node("node-1", DrainStrategy={"IgnoreSystemJobs": False})
            await eventually(lambda: health(seen, "a2") is Health.DRAINING, "the node drains")
            assert health(seen, "a1") is Health.DRAINING
            await nomad.set_allocation("a1", client="complete")
            await eventually(lambda: instances(seen).keys() == {"a2"}, "it has ended")

    async def test_a_service_without_instances_goes_with_its_job(self, nomad: ScriptedNomad) -> None:
        await nomad.run("web", "a1")
        await nomad.run("api", "b1")
        async with reading(nomad) as seen:
            await nomad.set_allocation("a1", client="complete")
            await nomad.deregister("a1")
            await eventually(lambda: seen.service("web") and not instances(seen), "it is empty")
            del nomad.jobs["job-web"]
            await nomad.register("api", "b1")
            await eventually(lambda: seen.service("web") is None, "its job is gone")

    async def test_an_index_that_goes_back_is_an_error(self, nomad: ScriptedNomad) -> None:
        await nomad.run("web", "a1")
        async with reading(nomad) as seen:
            nomad.indexes["services"] = 3
            await nomad.set_namespaces("default")  # so that those who wait look again
            await eventually(lambda: seen.error, "it is noticed")
            assert "the services went back" in str(seen.error)


class TestChecks:
    async def test_a_client_that_cannot_be_asked_keeps_its_last_word(self, nomad: ScriptedNomad) -> None:
        """And does not keep the others waiting."""
        await nomad.run("web", "a1", "a2", checks=True)
        await nomad.run("web", "b1", "b2", node="node-2", checks=True)
        nomad.set_check("a2", "web", "failure")
        async with reading(nomad) as seen:
            await eventually(lambda: health(seen, "a2") is Health.UNHEALTHY, "the failure")

            async def never(_: web.Request) -> web.StreamResponse:
                await asyncio.Event().wait()
                raise AssertionError

            nomad.answers["/v1/client/allocation/a1/checks"] = never
            nomad.answers["/v1/client/allocation/a2/checks"] = answering(500, b"No path to node")
            for alloc, status in (("b1", "failure"), ("b1", "success"), ("b2", "failure")):
                nomad.set_check(alloc, "web", status)
                expected = Health.HEALTHY if status == "success" else Health.UNHEALTHY
                await eventually(lambda: health(seen, alloc) is expected, f"{alloc} {status}", timeout=2)  # noqa: B023
            assert health(seen, "a1") is Health.HEALTHY
            assert health(seen, "a2") is Health.UNHEALTHY
            assert seen.error is None

    async def test_the_last_word_outlives_a_failure_to_read(self, nomad: ScriptedNomad) -> None:
        """The client still does not answer when everything is listed again."""
        await nomad.run("web", "a1", "a2", checks=True)
        nomad.set_check("a2", "web", "failure")
        adapter, _ = mk_adapter(nomad)
        async with following(adapter) as seen:
            await eventually(lambda: health(seen, "a2") is Health.UNHEALTHY, "the failure")
            nomad.answers["/v1/client/*"] = answering(500, b"No path to node")
            await nomad.end_streams()
            await eventually(lambda: seen.error, "the stream ended")
        async with following(adapter) as again:
            await eventually(lambda: again.snapshots, "it is listed again")
            first = {i.provenance["allocation"]: i.health for i in _web(again.snapshots[0]).instances}
            assert first == {"a1": Health.HEALTHY, "a2": Health.UNHEALTHY}

    async def test_an_unreachable_client_is_asked_for_one_allocation_now_and_then(self, nomad: ScriptedNomad) -> None:
        allocs = [f"a{n}" for n in range(30)]
        await nomad.run("web", *allocs, checks=True)
        async with reading(nomad):
            nomad.answers["/v1/client/*"] = answering(500, b"No path to node")

            def asked() -> int:
                return sum(n for path, n in nomad.calls.items() if path.startswith("/v1/client/"))

            before, beats = asked(), nomad.calls["/v1/namespaces"]
            await eventually(lambda: nomad.calls["/v1/namespaces"] - beats > 3, "a second has passed")
            assert asked() - before < len(allocs), "without the rule it were ten for each"

    async def test_checks_that_may_not_be_read_leave_the_rest_of_the_evidence(self, nomad: ScriptedNomad) -> None:
        nomad.answers["/v1/client/*"] = answering(403, b"Permission denied")
        await nomad.run("web", "a1", checks=True)
        async with reading(nomad) as seen:
            await eventually(lambda: health(seen, "a1") is Health.HEALTHY, "it runs")
            assert [q.where for q in seen.latest.quarantined] == ["checks"]

    async def test_a_slow_first_round_does_not_hold_up_the_first_snapshot(
        self, nomad: ScriptedNomad, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the deployment has found stands for the checks until they are known."""
        monkeypatch.setattr(nomad_reading, "FIRST_CHECKS", 0.2)
        await nomad.run("web", "a1", "a2", checks=True)
        await nomad.set_allocation("a1", deployment={"Healthy": True})

        async def never(_: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        nomad.answers["/v1/client/*"] = never
        async with reading(nomad) as seen:
            assert health(seen, "a1") is Health.HEALTHY
            assert health(seen, "a2") is Health.UNHEALTHY


class TestRefusals:
    async def test_a_service_is_asked_three_times_before_its_failure_counts(self, nomad: ScriptedNomad) -> None:
        await nomad.run("web", "a1")
        tries = 0

        async def moody(request: web.Request) -> web.StreamResponse:
            nonlocal tries
            tries += 1
            return web.Response(status=500) if tries < 3 else await nomad._faithful(request)

        nomad.answers["/v1/service/web"] = moody
        async with reading(nomad) as seen:
            assert instances(seen).keys() == {"a1"}

    @pytest.mark.parametrize(
        "path", ["/v1/services", "/v1/service/web", "/v1/allocations", "/v1/job/job-web", "/v1/node/node-1"]
    )
    async def test_a_part_that_cannot_be_read_is_an_error_not_a_smaller_world(
        self, nomad: ScriptedNomad, path: str
    ) -> None:
        await nomad.run("web", "a1")
        nomad.answers[path] = answering(500, b"No cluster leader")
        async with following(mk_adapter(nomad)[0]) as seen:
            await eventually(lambda: seen.error, "it is noticed")
        assert f"GET {path}: 500 No cluster leader" in str(seen.error)
        assert seen.snapshots == []

    async def test_an_entry_that_is_no_registration_is_quarantined_by_name(self, nomad: ScriptedNomad) -> None:
        """Listed or in an event, and it does not keep others from being followed."""
        await nomad.run("web", "a1")
        await nomad.register("web", "a2", Port="eighty")
        async with reading(nomad) as seen:
            assert instances(seen).keys() == {"a1"}
            await nomad.register("web", "a3", Port="eighty")
            await nomad.run("api", "b1")
            await eventually(lambda: instances(seen, "api").keys() == {"b1"}, "the next event")
            await eventually(lambda: {"a2", "a3"} <= _bad(seen), "both are named")
            assert instances(seen).keys() == {"a1"}
            await nomad.register("web", "a3")
            await eventually(lambda: instances(seen).keys() == {"a1", "a3"}, "one is mended")
            await eventually(lambda: _bad(seen) == {"a2"}, "one is left")


def _bad(seen: Following) -> set[str]:
    """The allocations that are quarantined as not what Nomad documents, but for remarks about events."""
    return {q.where.split("-")[2] for q in seen.latest.quarantined if q.reason.startswith("not what Nomad documents")}


def _web(snapshot: Any) -> Any:
    return next(s for k, s in snapshot.services.items() if k.name == "web")
