"""Eureka's servers lie, stall, forget and disagree: what is alive stays, and what is wrong is said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from isthmus.registry.eureka import EurekaAdapter, EurekaConfig
from isthmus.registry.eureka import reading as eureka_reading
from isthmus.registry.hub import Hub
from isthmus.registry.model import Health, Origin
from isthmus.registry.origin import OriginStatus
from isthmus.registry.source import SourceRules
from tests.contract.adapter_contract import Following, following
from tests.servers.scripted_eureka import Answer, ScriptedEureka, breaking_off, in_brief, saying, stalling
from tests.wait import eventually

XML = "<applications>\n  <versions__delta>1</versions__delta>\n</applications>"


@pytest.fixture
async def eureka() -> AsyncIterator[ScriptedEureka]:
    async with ScriptedEureka() as server:
        yield server


def mk_adapter(*servers: ScriptedEureka, **options: Any) -> tuple[EurekaAdapter, OriginStatus]:
    origin = Origin("spring", "eureka")
    stats = OriginStatus(origin)
    said = {"addresses": [s.address for s in servers], "poll_interval": 0.1, "timeout": 0.3} | options
    return EurekaAdapter(origin, msgspec.convert(said, EurekaConfig), stats), stats


@contextlib.asynccontextmanager
async def reading(*servers: ScriptedEureka, **options: Any) -> AsyncIterator[Following]:
    """An adapter under way, after its first snapshot."""
    async with following(mk_adapter(*servers, **options)[0]) as seen:
        await eventually(lambda: seen.snapshots or seen.error, "a first snapshot")
        assert seen.error is None
        yield seen


async def polled(server: ScriptedEureka, times: int = 3) -> None:
    """Wait until the adapter has asked for what changed this often again."""
    enough = server.asked["/apps/delta"] + times
    await eventually(lambda: server.asked["/apps/delta"] >= enough, f"{times} polls")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (saying(text=XML, content_type="application/xml"), "the answer is XML or HTML though JSON was asked for"),
        (saying(text=XML), "the answer is XML or HTML though JSON was asked for"),
        (saying(text="<html>Sign in</html>", content_type="text/html"), "XML or HTML"),
        (saying(403), "403 (the server is still syncing with its peers"),
        (saying(404, text="no"), "404 no (is the path of the address right? /eureka"),
        (saying(302), "a redirection, which is not followed"),
        (saying(500, text="oops"), "500 oops"),
        (saying(text='{"applications": {"appl'), "not what Eureka documents"),
        (saying(text="null"), "not what Eureka documents"),
        (stalling, "nothing for 0.3 s"),
        (breaking_off, "GET /apps"),
    ],
)
async def test_no_usable_answer_is_an_error_that_says_why(eureka: ScriptedEureka, answer: Answer, said: str) -> None:
    """From the start, and in the middle of things: nothing is yielded, and what was known stays known."""
    eureka.put("web", "web-1")
    eureka.instead["/apps"] = answer
    async with following(mk_adapter(eureka)[0]) as seen:
        await eventually(lambda: seen.error, "an error")
        assert said in str(seen.error)
        assert f"eureka at {eureka.address}: GET /apps" in str(seen.error)
    del eureka.instead["/apps"]
    async with reading(eureka) as seen:
        eureka.instead |= {"/apps/delta": answer, "/apps": answer}
        await eventually(lambda: seen.error, "an error")
        assert said in str(seen.error)
        assert len(seen.snapshots) == 1


async def test_the_next_server_is_asked(eureka: ScriptedEureka) -> None:
    """One is still syncing with its peers; the other has everything."""
    async with ScriptedEureka() as other:
        other.instead["/apps"] = saying(403)
        for server in (eureka, other):
            server.put("web", "web-1")
        for _ in range(5):  # whichever comes first
            async with reading(eureka, other) as seen:
                assert seen.addresses("web") == {"10.0.0.1": 8080}


async def test_a_server_is_kept_until_it_fails(eureka: ScriptedEureka) -> None:
    """Servers differ in detail: to ask them in turn would be a flapping registry."""
    async with ScriptedEureka() as other:
        for server in (eureka, other):
            server.put("web", "web-1")
        adapter, _ = mk_adapter(eureka, other)
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            first, second = (eureka, other) if eureka.asked else (other, eureka)
            await polled(first, 5)
            assert not second.asked
            first.instead |= {"/apps": saying(500), "/apps/delta": saying(500)}
            await eventually(lambda: seen.error, "it failed")
        async with following(adapter) as again:
            await eventually(lambda: again.snapshots, "the other one has a listing")
            await polled(second)


async def test_a_server_that_lost_some_is_doubted(eureka: ScriptedEureka) -> None:
    """After a fail-over to a server that has just been restarted: 200, and a part of the registry."""
    async with ScriptedEureka() as other:
        for server in (eureka, other):
            for n in range(1, 6):
                server.put("web", f"web-{n}", ipAddr=f"10.0.0.{n}")
        adapter, stats = mk_adapter(eureka, other)
        hub = Hub(SourceRules(), sync_timeout=5)
        hub.add(adapter, stats)
        catalogs = hub.catalogs()
        try:
            catalog = await anext(catalogs)
            first, second = (eureka, other) if eureka.asked else (other, eureka)
            second.drop("web-1", told=False)
            second.put("web", "web-6", ipAddr="10.0.0.6")
            first.instead |= {"/apps": saying(500), "/apps/delta": saying(500)}
            async with asyncio.timeout(5):
                while "web-6" not in {i.id for s in catalog.services.values() for i in s.instances}:
                    catalog = await anext(catalogs)
            (service,) = catalog.services.values()
            healthy = [i.id for i in service.instances if i.health is Health.HEALTHY]
            assert healthy == [f"web-{n}" for n in range(1, 7)], "web-1 is kept"
            assert "lacks 1 of the instances known before" in stats.doubt
        finally:
            await catalogs.aclose()  # type: ignore[attr-defined]
            await hub.close()


async def test_what_a_server_saw_to_go_is_not_doubted(eureka: ScriptedEureka) -> None:
    """Though it went while nobody was looking: the next listing's delta tells."""
    for n in (1, 2):
        eureka.put("web", f"web-{n}", ipAddr=f"10.0.0.{n}")
    adapter, _ = mk_adapter(eureka)
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots, "a first snapshot")
        eureka.instead |= {"/apps": saying(500), "/apps/delta": saying(500)}
        await eventually(lambda: seen.error, "it failed")
    eureka.instead.clear()
    eureka.drop("web-1")
    async with following(adapter) as again:
        await eventually(lambda: again.snapshots, "the listing after it")
        assert again.addresses("web") == {"10.0.0.2": 8080}
        assert again.latest.doubt == ""


async def test_a_restart_that_nobody_noticed_is_listed_again(eureka: ScriptedEureka) -> None:
    """The number of its deltas went back: another process answers, which may know less."""
    eureka.put("web", "web-1")
    eureka.version = 50
    async with reading(eureka) as seen:
        await polled(eureka)
        eureka.version = 1
        await eventually(lambda: seen.error, "an error")
        assert "the number of its deltas went back" in str(seen.error)


async def test_a_difference_is_mended_by_one_listing(eureka: ScriptedEureka) -> None:
    eureka.put("web", "web-1")
    async with reading(eureka) as seen:
        eureka.put("api", "api-1", told=False)
        await eventually(lambda: seen.service("api"), "what no delta told")
        await polled(eureka, 5)
        assert eureka.asked["/apps"] == 2


async def test_a_difference_that_stays_makes_no_storm(eureka: ScriptedEureka) -> None:
    """Servers with a wrong hashcode exist. Listings are made less and less often, and what is known is shown."""
    eureka.put("web", "web-1")
    eureka.hashcode = "UP_7_"
    with capture_logs() as logs:
        async with reading(eureka) as seen:
            await polled(eureka, 10)
            eureka.put("api", "api-1")
            await eventually(lambda: seen.service("api"), "a change all the same")
    assert eureka.asked["/apps"] == 2
    assert [e["hashcode"] for e in logs if e["event"] == "eureka.hash_mismatch"] == ["UP_7_"]


async def test_a_server_without_deltas(eureka: ScriptedEureka) -> None:
    """It is listed as a whole, with a warning, and what a listing lacks is gone."""
    eureka.put("web", "web-1")
    eureka.instead["/apps/delta"] = saying(403)
    with capture_logs() as logs:
        async with reading(eureka) as seen:
            await eventually(lambda: eureka.asked["/apps"] == 2, "a listing instead of a delta")
            assert seen.error is None
    assert [e["listing_every_s"] for e in logs if e["event"] == "eureka.no_deltas"] == [30.0]


async def test_listings_are_repeated(eureka: ScriptedEureka) -> None:
    """Equal counts prove nothing: an instance that took the place of another is found by the next listing."""
    eureka.put("web", "web-1")
    async with reading(eureka, full_interval=1) as seen:
        eureka.drop("web-1", told=False)
        eureka.put("web", "web-2", told=False, ipAddr="10.0.0.2")
        await eventually(lambda: seen.addresses("web") == {"10.0.0.2": 8080}, "the listing")
        assert "lacks 1 of the instances known before" in seen.latest.doubt


async def test_a_pause_that_deltas_do_not_reach_over(eureka: ScriptedEureka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server forgets what changed three minutes ago: after a longer pause everything is listed, whatever the counts say."""
    monkeypatch.setattr(eureka_reading, "RETENTION", 0.5)
    eureka.put("web", "web-1")
    async with reading(eureka, poll_interval=1) as seen:
        eureka.drop("web-1")
        eureka.put("web", "web-2", ipAddr="10.0.0.2")
        eureka.changes.clear()
        await eventually(lambda: seen.addresses("web") == {"10.0.0.2": 8080}, "the listing")
        assert eureka.asked["/apps"] >= 2


@pytest.mark.parametrize("brief", [False, True])
async def test_a_delta_in_the_servers_cache_that_lacks_a_change(eureka: ScriptedEureka, brief: bool) -> None:
    """It was made in the moment of the change, and stays; its counts are those of before, so they agree. The other kind tells."""
    eureka.put("web", "web-1")
    stale = saying(body=eureka.page({}))
    async with reading(eureka) as seen:
        eureka.put("web", "web-2", ipAddr="10.0.0.2")
        whole = saying(body=eureka.page(eureka.changes))
        short = saying(body=eureka.page(in_brief(eureka.changes)))
        eureka.instead |= {"/apps/delta": whole if brief else stale, "/apps/delta brief": stale if brief else short}
        await eventually(lambda: set(seen.addresses("web")) == {"10.0.0.1", "10.0.0.2"}, "what one of them tells")
        await polled(eureka, 8)
        assert eureka.asked["/apps"] == 1
        assert eureka.asked["/apps/WEB/web-2"] == (0 if brief else 1), "the brief one does not tell all of it"
        assert seen.error is None


async def test_a_deletion_that_one_delta_lacks(eureka: ScriptedEureka) -> None:
    for n in (1, 2):
        eureka.put("web", f"web-{n}", ipAddr=f"10.0.0.{n}")
    async with reading(eureka) as seen:
        eureka.instead["/apps/delta"] = saying(body=eureka.page(eureka.changes))
        eureka.drop("web-1")
        eureka.instead["/apps/delta brief"] = saying(body=eureka.page(in_brief(eureka.changes)))
        await eventually(lambda: seen.addresses("web") == {"10.0.0.2": 8080}, "it is gone")
        await polled(eureka, 8)
        assert eureka.asked["/apps"] == 1
        assert seen.latest.doubt == ""


async def test_an_answer_younger_than_the_other_makes_no_listing(eureka: ScriptedEureka) -> None:
    """A busy server renews them one after the other, and meanwhile much has changed."""
    eureka.put("web", "web-0")
    eureka.put("web", "web-1")
    async with reading(eureka) as seen:
        eureka.instead["/apps/delta"] = saying(body=eureka.page(eureka.changes))
        eureka.drop("web-0")
        for n in range(2, 25):
            eureka.put("web", f"web-{n}", ipAddr=f"10.0.0.{n}")
        eureka.instead["/apps/delta brief"] = saying(body=eureka.page(in_brief(eureka.changes)))
        await eventually(lambda: len(seen.addresses("web")) == 24, "all of them, some at each poll")
        assert eureka.asked["/apps"] == 1


async def test_repeated_deltas_are_no_news(eureka: ScriptedEureka) -> None:
    eureka.put("web", "web-1")
    async with reading(eureka) as seen:
        eureka.put("web", "web-1", status="OUT_OF_SERVICE")
        await eventually(lambda: len(seen.snapshots) == 2, "the change")
        await polled(eureka, 5)
        assert len(seen.snapshots) == 2
        (service,) = seen.latest.services.values()
        assert service.instances[0].health is Health.DRAINING


async def test_a_single_object_is_a_list_of_one(eureka: ScriptedEureka) -> None:
    eureka.put("web", "web-1")
    page = eureka.page(eureka.instances)
    application = page["applications"]["application"][0]
    page["applications"]["application"] = application | {"instance": application["instance"][0]}
    eureka.instead["/apps"] = saying(body=page)
    async with reading(eureka) as seen:
        assert seen.addresses("web") == {"10.0.0.1": 8080}


async def test_a_password_is_sent_and_never_shown(eureka: ScriptedEureka) -> None:
    eureka.user, eureka.password = "me", "s3cret"
    eureka.put("web", "web-1")
    login = {"user": "me", "password": "s3cret"}
    async with reading(eureka, **login) as seen:
        assert seen.addresses("web") == {"10.0.0.1": 8080}
    async with following(mk_adapter(eureka, **login | {"password": "wr0ng"})[0]) as refused:
        await eventually(lambda: refused.error, "an error")
        assert "401" in str(refused.error)
        assert "user or password is wrong or missing" in str(refused.error)
        assert "wr0ng" not in str(refused.error)


async def test_regions_are_asked_for(eureka: ScriptedEureka) -> None:
    asked = []

    async def answer(request: Any) -> Any:
        asked.append(request.query_string)
        return await saying(body=eureka.page(eureka.instances))(request)

    eureka.instead["/apps"] = answer
    async with reading(eureka, regions=["us-east-1", "eu-west-1"]):
        assert [q.replace("%2C", ",") for q in asked] == ["regions=us-east-1,eu-west-1"]


async def test_an_audit_reads_anew(eureka: ScriptedEureka) -> None:
    """Beside the watch, which is made to catch up."""
    eureka.put("web", "web-1")
    adapter, _ = mk_adapter(eureka, poll_interval=60)
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots, "a first snapshot")
        eureka.put("web", "web-2", ipAddr="10.0.0.2")
        listing = await adapter.listing()
        assert [len(s.instances) for s in listing.services.values()] == [2]
        await eventually(lambda: seen.latest.services == listing.services, "the watch catches up")
