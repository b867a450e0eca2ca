"""Every supported Envoy, with both forms of the protocol, follows each change at once, and no request fails by it.

"At once" is counted from Envoy's own statistics: it waits 15 s for what it has asked for and is not sent, and counts that.
"""

from __future__ import annotations

from functools import partial

from isthmus.registry.model import OutlierDetection
from tests.e2e.translated import Translated, cluster, each, host
from tests.servers.envoy import Envoy, Updates
from tests.servers.upstream import Load, Upstream, constant_load
from tests.wait import eventually

RULES = OutlierDetection(ejection_time=31)
OTHER_RULES = OutlierDetection(ejection_time=32)


@each
async def test_no_request_fails_whatever_changes(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """200 services, 50 of them TCP: from the first moment on, and while instances, clusters and services come and go. Rule 35."""
    one, two = upstreams
    http, tcp = [f"web{n}" for n in range(150)], [f"db{n}" for n in range(50)]
    town.change(*(town.http(name, one) for name in http), *(town.tcp(name, one) for name in tcp))
    envoy = await town.envoy(version, delta=delta)
    assert {await town.get_http(name) for name in http} == {(200, "one")}
    assert {await town.get_tcp(name) for name in tcp} == {(200, "one")}
    await town.followed("the first configuration")
    once = Updates(attempted=2, accepted=1)
    first = {"CDS": once, "EDS": Updates(attempted=400, accepted=200), "LDS": once, "RDS": once}
    assert await envoy.updates() == first

    async with (
        constant_load(town.port, host("web0")) as web,
        constant_load(town.tcp_port, "db0", address=town.virtual_ip("db0"), fresh=True) as db,
        constant_load(town.port, host("new"), streams=1) as new,
    ):
        await _moves(town, (web, db), one, two)
        instances = Updates(attempted=404, accepted=204)
        assert await envoy.updates() == first | {"EDS": instances}, "instances are EDS alone, one response each time"

        town.change(town.http("web0", two, rules=RULES), town.tcp("db0", two, rules=RULES))
        for service in (town.http("web0"), town.tcp("db0")):
            await eventually(partial(_ejects_for, envoy, cluster(service), 31), "the changed cluster is in use")
        await town.followed("two clusters have changed")
        assert (await envoy.updates())["CDS"] == Updates(attempted=3, accepted=2)

        town.change(town.http("new", one), town.tcp("added", one))
        await eventually(lambda: new.answers["one"] > 5, "what was added is served")
        await eventually(lambda: _is(town, "added", "one"), "what was added is served, over TCP too")
        await town.followed("two services have been added")
        _only_unknown(new)

        for load in (web, db, new):
            load.recent()
        town.change(without=("new", "added"))
        await eventually(lambda: new.failures, "what was removed is not served")
        await town.followed("two services have been removed")
        await eventually(lambda: web.answers["two"] > 5 and db.answers["two"] > 5, "the others are served on")
        _only_unknown(new)
        assert await envoy.active(cluster(town.http("new"))) is None
    assert web.failures == db.failures == []
    assert await _warming(envoy) == 0
    assert await envoy.rejected() == {}


@each
async def test_nothing_waits_for_what_has_changed_meanwhile(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """Generations so close on each other that Envoy asks for endpoints of a cluster that is gone, or another, already.

    Rule 36.
    """
    one, two = upstreams
    town.change(*(town.http(f"web{n}", one) for n in range(5)), town.tcp("db", one))
    envoy = await town.envoy(version, delta=delta)
    await town.followed("the first configuration")

    # Added and removed again.
    before = await _accepted(envoy, "CDS")
    town.change(town.http("short", one))
    town.change(without=["short"])
    await town.followed("a service came and went")
    assert await envoy.active(cluster(town.http("short"))) is None
    assert await _accepted(envoy, "CDS") == before + 2, "Envoy has seen both, which is what this is about"

    # Changed while the change before is under way, and with it the instances.
    town.change(town.http("web0", one, rules=RULES))
    town.change(town.http("web0", two, rules=OTHER_RULES))
    await eventually(partial(_ejects_for, envoy, cluster(town.http("web0")), 32), "the second change is in use")
    await town.followed("a cluster has changed twice")
    assert await town.get_http("web0") == (200, "two")

    # Added and changed while it is new.
    town.change(town.http("web5", one))
    town.change(town.http("web5", one, rules=RULES))
    town.change(town.http("web5", two, rules=RULES))
    await eventually(partial(_ejects_for, envoy, cluster(town.http("web5")), 31), "the second change is in use")
    await town.followed("a new cluster has changed")
    assert await town.get_http("web5") == (200, "two")

    # Removed and added again as another.
    town.change(without=["web1"])
    town.change(town.http("web1", two))
    await town.followed("a service went and came")
    assert await town.get_http("web1") == (200, "two")

    # No instance at all is an answer as well.
    town.change(town.http("empty"))
    await town.followed("a service without instances")
    assert (await town.get_http("empty"))[0] == 503

    assert await _warming(envoy) == 0
    assert await envoy.rejected() == {}


@each
async def test_an_envoy_that_does_not_read_is_spared_what_came_between(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """Twenty changes of each of two clusters while it is frozen: it gets the first, which was on its way, and the last.

    Rule 42.
    """
    one, two = upstreams
    town.change(town.http("web", one), town.tcp("db", one))
    envoy = await town.envoy(version, delta=delta)
    await town.followed("the first configuration")
    before = await envoy.updates()

    with envoy.outage():
        for seconds in range(40, 60):
            rules = OutlierDetection(ejection_time=seconds)
            town.change(town.http("web", two, rules=rules), town.tcp("db", two, rules=rules))
    await town.followed("twenty changes")

    after = await envoy.updates()
    assert after["CDS"] == Updates(before["CDS"].attempted + 2, before["CDS"].accepted + 2)
    assert (after["LDS"], after["RDS"]) == (before["LDS"], before["RDS"])
    for name, answer in (("web", await town.get_http("web")), ("db", await town.get_tcp("db"))):
        assert answer == (200, "two"), name
    assert await _ejects_for(envoy, cluster(town.http("web")), 59)
    assert await envoy.rejected() == {}


async def _moves(town: Translated, loads: tuple[Load, Load], one: Upstream, two: Upstream) -> None:
    """Two services go from one instance to another, by way of both."""
    town.change(town.http("web0", one, two), town.tcp("db0", one, two))
    for load in loads:
        await eventually(lambda load=load: load.answers["two"] > 5, "the second instance serves")  # type: ignore[misc]
    town.change(town.http("web0", two), town.tcp("db0", two))
    await town.followed("an instance has left")
    for load in loads:
        load.recent()
        await eventually(lambda load=load: load.answers["two"] > 5, "the second instance serves")  # type: ignore[misc]


def _only_unknown(load: Load) -> None:
    """Whatever failed was answered as a host that nobody knows; 503 would be a route whose cluster is not there."""
    assert load.failures
    assert {failure.partition(" ")[0] for failure in load.failures} == {"502"}
    load.failures.clear()


async def _is(town: Translated, name: str, answer: str) -> bool:
    return await town.get_tcp(name) == (200, answer)


async def _ejects_for(envoy: Envoy, name: str, seconds: int) -> bool:
    """Whether the cluster is in use with these rules."""
    active = await envoy.active(name)
    return active is not None and active["outlier_detection"]["base_ejection_time"] == f"{seconds}s"


async def _warming(envoy: Envoy) -> int:
    return (await envoy.stats("cluster_manager.warming_clusters"))["cluster_manager.warming_clusters"]


async def _accepted(envoy: Envoy, kind: str) -> int:
    return (await envoy.updates())[kind].accepted
