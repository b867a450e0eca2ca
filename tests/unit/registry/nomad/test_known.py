"""What is known of a Nomad whose answers and events come in any order."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.model import Health, Instance, Origin, Snapshot
from isthmus.registry.nomad.answers import (
    Allocation,
    CheckResult,
    CheckSpec,
    DeploymentStatus,
    GroupSpec,
    Job,
    Listing,
    Node,
    Registration,
    ServiceName,
    ServiceSpec,
)
from isthmus.registry.nomad.known import Known
from isthmus.registry.nomad.memory import Memory
from isthmus.registry.nomad.parse import Rules

NOW = 1_000.0
DRAIN_LIMIT = 60.0
WEB = ServiceName("default", "web")
JOB = ("default", "job")


def mk_known(memory: Memory | None = None, *, checks: bool = False) -> Known:
    """A listing that found a job and a node, at index 10, and no service."""
    known = Known(Origin("global", "nomad"), Rules(), DRAIN_LIMIT, memory or Memory())
    known.heard_namespaces(frozenset({"default"}))
    known.heard_list(frozenset(), 10, NOW)
    known.heard_node(Node("n1", name="n1", modify_index=5))
    known.heard_job(mk_job(checks=checks))
    return known


def mk_job(*, checks: bool = False, services: tuple[str, ...] = ("web", "api"), index: int = 6) -> Job:
    specs = [ServiceSpec(name, "nomad", [CheckSpec("alive")] if checks else None) for name in services]
    return Job("job", groups=[GroupSpec("web", specs)], modify_index=index)


def registration(id_: str, *, service: str = "web", alloc: str = "", port: int = 24_000) -> Registration:
    return Registration(id_, service, alloc=alloc or alloc_id(id_), node="n1", job="job", address="10.0.0.1", port=port)


def alloc_id(id_: str) -> str:
    return f"alloc-{id_}".ljust(36, "-")


def alloc(id_: str, *, client: str = "running", desired: str = "run", index: int = 7) -> Allocation:
    return Allocation(
        alloc_id(id_), node="n1", job="job", group="web", client=client, desired=desired, modify_index=index
    )


def instances(known: Known, now: float = NOW) -> dict[str, Instance]:
    snapshot = known.take(now)
    return {i.id: i for k, s in snapshot.services.items() if k.name == "web" for i in s.instances}


def healths(known: Known, now: float = NOW) -> dict[str, Health]:
    return {id_: i.health for id_, i in instances(known, now).items()}


class TestOrder:
    def test_an_event_that_an_answer_contains_is_skipped(self) -> None:
        known = mk_known()
        known.heard_service(WEB, Listing((registration("b"),)), 20, NOW)
        known.registered(registration("a"), 15, NOW)
        known.deregistered(registration("b"), 20, NOW)
        assert instances(known).keys() == {"b"}

    def test_an_answer_that_is_older_than_an_event_is_skipped(self) -> None:
        known = mk_known()
        known.registered(registration("a"), 21, NOW)
        known.heard_service(WEB, Listing(()), 20, NOW)
        assert instances(known).keys() == {"a"}
        known.heard_service(WEB, Listing(()), 22, NOW)
        assert instances(known) == {}

    def test_events_of_one_index_all_count(self) -> None:
        """As when a node is lost with all that it ran."""
        known = mk_known()
        known.heard_service(WEB, Listing((registration("a"), registration("b", port=24_001))), 20, NOW)
        known.deregistered(registration("a"), 30, NOW)
        known.deregistered(registration("b", port=24_001), 30, NOW)
        assert instances(known) == {}

    def test_an_old_event_of_a_service_that_is_not_listed_does_not_bring_it_back(self) -> None:
        known = mk_known()
        known.registered(registration("a"), 9, NOW)
        assert instances(known) == {}
        known.registered(registration("a"), 11, NOW)
        assert instances(known).keys() == {"a"}

    def test_events_told_twice_change_nothing(self) -> None:
        """As by the stream that takes the place of another one."""
        known = mk_known()
        for _ in range(2):
            known.registered(registration("a"), 11, NOW)
            known.registered(registration("b", port=24_001), 12, NOW)
            known.deregistered(registration("a"), 13, NOW)
            assert instances(known).keys() >= {"b"}
        known.registered(registration("a"), 11, NOW)
        assert instances(known).keys() == {"b"}

    def test_an_older_state_of_an_allocation_a_node_or_a_job_is_skipped(self) -> None:
        known = mk_known()
        known.registered(registration("a"), 11, NOW)
        known.heard_allocation(alloc("a", desired="stop", index=20))
        known.heard_allocation(alloc("a", index=19))
        assert healths(known) == {"a": Health.DRAINING}
        known.heard_allocation(alloc("a", index=21))
        known.heard_node(Node("n1", status="down", modify_index=30))
        known.heard_node(Node("n1", modify_index=29))
        assert healths(known) == {"a": Health.UNHEALTHY}

    def test_an_allocation_may_come_before_or_after_its_registration(self) -> None:
        first, second = mk_known(), mk_known()
        first.heard_allocation(alloc("a"))
        first.registered(registration("a"), 11, NOW)
        second.registered(registration("a"), 11, NOW)
        assert healths(second) == {"a": Health.UNKNOWN}
        second.heard_allocation(alloc("a"))
        assert instances(first) == instances(second)


class TestLeaving:
    def mk_leaving(self) -> Known:
        known = mk_known()
        known.heard_allocation(alloc("a"))
        known.registered(registration("a"), 11, NOW)
        known.deregistered(registration("a"), 12, NOW)
        return known

    def test_a_deregistered_instance_drains_until_its_allocation_has_ended(self) -> None:
        known = self.mk_leaving()
        assert healths(known) == {"a": Health.DRAINING}
        known.heard_allocation(alloc("a", client="complete", index=30))
        assert instances(known) == {}

    def test_or_until_nomad_does_not_know_it(self) -> None:
        known = self.mk_leaving()
        known.no_allocation(alloc_id("a"))
        assert instances(known) == {}

    def test_or_until_its_time_is_over(self) -> None:
        known = self.mk_leaving()
        known.expire(NOW + DRAIN_LIMIT - 1)
        assert healths(known) == {"a": Health.DRAINING}
        known.expire(NOW + DRAIN_LIMIT)
        assert instances(known) == {}

    def test_or_until_it_is_registered_again(self) -> None:
        known = self.mk_leaving()
        known.registered(registration("a"), 13, NOW)
        assert healths(known) == {"a": Health.HEALTHY}
        known.expire(NOW + DRAIN_LIMIT)
        assert healths(known) == {"a": Health.HEALTHY}

    def test_or_until_another_instance_has_its_place(self) -> None:
        """A port label that was renamed gives a running task another id."""
        known = self.mk_leaving()
        known.registered(registration("b", alloc=alloc_id("a")), 13, NOW)
        assert healths(known) == {"b": Health.HEALTHY}

    def test_an_instance_whose_allocation_has_ended_goes_at_once(self) -> None:
        known = mk_known()
        known.heard_allocation(alloc("a"))
        known.registered(registration("a"), 11, NOW)
        known.heard_allocation(alloc("a", client="failed", index=30))
        assert healths(known) == {"a": Health.UNHEALTHY}
        known.deregistered(registration("a"), 31, NOW)
        assert instances(known) == {}

    def test_another_listing_still_knows_it(self) -> None:
        memory = Memory()
        known = mk_known(memory)
        known.heard_allocation(alloc("a"))
        known.registered(registration("a"), 11, NOW)
        known.deregistered(registration("a"), 12, NOW)
        again = mk_known(memory)
        again.heard_allocation(alloc("a"))
        again.expire(NOW + 1)
        assert healths(again) == {"a": Health.DRAINING}


class TestChecks:
    def test_only_allocations_of_services_with_checks_are_polled(self) -> None:
        with_checks, without = mk_known(checks=True), mk_known()
        for known in (with_checks, without):
            known.heard_allocation(alloc("a"))
            known.heard_allocation(alloc("of-no-service"))
            known.registered(registration("a"), 11, NOW)
        assert with_checks.polled == {alloc_id("a"): "n1"}
        assert without.polled == {}

    def test_an_allocation_of_another_version_is_asked_once_whether_it_has_checks(self) -> None:
        known = mk_known()
        known.heard_allocation(msgspec.structs.replace(alloc("a"), job_version=3))
        known.heard_job(msgspec.structs.replace(mk_job(index=9), version=4))
        known.registered(registration("a"), 11, NOW)
        assert known.polled == {alloc_id("a"): "n1"}
        known.heard_checks(alloc_id("a"), ())
        known.heard_allocation(msgspec.structs.replace(alloc("a", index=30), job_version=3))
        assert known.polled == {}

    def test_a_registration_after_a_pause_waits_for_new_results(self) -> None:
        """The task was restarted: what its checks said before counts no more, nor what its deployment found."""
        known = mk_known(checks=True)
        known.heard_allocation(msgspec.structs.replace(alloc("a"), deployment=DeploymentStatus(healthy=True)))
        known.heard_service(WEB, Listing((registration("a"),)), 11, NOW)
        assert healths(known) == {"a": Health.HEALTHY}
        known.heard_checks(alloc_id("a"), (CheckResult("alive", "web", "success"),))
        known.deregistered(registration("a"), 12, NOW)
        known.registered(registration("a"), 13, NOW)
        assert healths(known) == {"a": Health.UNHEALTHY}
        known.heard_checks(alloc_id("a"), (CheckResult("alive", "web", "success"),))
        assert healths(known) == {"a": Health.HEALTHY}

    def test_a_registration_that_only_changed_keeps_its_results(self) -> None:
        known = mk_known(checks=True)
        known.heard_allocation(alloc("a"))
        known.registered(registration("a"), 11, NOW)
        known.heard_checks(alloc_id("a"), (CheckResult("alive", "web", "success"),))
        known.registered(registration("a", port=25_000), 12, NOW)
        assert healths(known) == {"a": Health.HEALTHY}

    def test_a_client_that_is_silent_for_long_makes_its_last_success_count_less(self) -> None:
        known = mk_known(checks=True)
        known.heard_allocation(alloc("a"))
        known.registered(registration("a"), 11, NOW)
        known.heard_checks(alloc_id("a"), (CheckResult("alive", "web", "success"),))
        known.silent(alloc_id("a"), NOW)
        known.silent(alloc_id("a"), NOW + 50)
        known.expire(NOW + 59)
        assert healths(known, NOW + 59) == {"a": Health.HEALTHY}
        known.expire(NOW + 60)
        assert healths(known, NOW + 60) == {"a": Health.DEGRADED}
        known.heard_checks(alloc_id("a"), (CheckResult("alive", "web", "success"),))
        assert healths(known, NOW + 61) == {"a": Health.HEALTHY}


class TestEmptied:
    def mk_emptied(self) -> Known:
        known = mk_known()
        known.registered(registration("a"), 11, NOW)
        known.take(NOW)
        known.deregistered(registration("a"), 12, NOW)
        return known

    def names(self, known: Known) -> set[str]:
        return {k.name for k in known.take(NOW).services}

    def test_a_service_goes_on_without_instances_for_as_long_as_its_job_has_it(self) -> None:
        known = self.mk_emptied()
        assert self.names(known) == {"web"}
        known.heard_job(mk_job(services=("api",), index=20))
        assert self.names(known) == set()

    def test_a_stopped_job_has_no_services(self) -> None:
        known = self.mk_emptied()
        known.heard_job(msgspec.structs.replace(mk_job(index=20), stop=True))
        assert self.names(known) == set()

    def test_an_old_event_does_not_end_a_job(self) -> None:
        known = self.mk_emptied()
        known.no_job(JOB, 5)
        assert self.names(known) == {"web"}
        known.no_job(JOB, 7)
        assert self.names(known) == set()


Step = st.one_of(
    st.tuples(st.just("register"), st.sampled_from("abc"), st.sampled_from(["web", "api"])),
    st.tuples(st.just("deregister"), st.sampled_from("abc"), st.sampled_from(["web", "api"])),
    st.tuples(st.just("alloc"), st.sampled_from("abc"), st.sampled_from(["pending", "running", "complete"])),
    st.tuples(st.just("stop"), st.sampled_from("abc"), st.just("")),
    st.tuples(st.just("node"), st.just(""), st.sampled_from(["ready", "down"])),
    st.tuples(st.just("check"), st.sampled_from("abc"), st.sampled_from(["success", "failure"])),
    st.tuples(st.just("job"), st.just(""), st.sampled_from(["web", "api", ""])),
    st.tuples(st.just("silent"), st.sampled_from("abc"), st.just("")),
    st.tuples(st.just("wait"), st.just(""), st.just("")),
)


@given(st.lists(Step, max_size=25))
def test_hints_name_all_that_changed_and_a_new_listing_finds_the_same(steps: list[tuple[str, str, str]]) -> None:
    """Whatever happens: each snapshot's hint covers what differs, and who lists everything anew sees what events have brought."""
    memory = Memory()
    known = mk_known(memory, checks=True)
    before: Snapshot = known.take(NOW)
    registered: dict[tuple[str, str], Registration] = {}
    allocs: dict[str, Allocation] = {}
    node, job, now = Node("n1", name="n1", modify_index=5), mk_job(checks=True), NOW
    for n, (verb, id_, what) in enumerate(steps):
        index = 20 + n
        if verb == "register":
            one = registration(f"{id_}-{what}", service=what, alloc=alloc_id(id_), port=24_000 + ord(id_))
            registered[what, one.id] = one
            known.registered(one, index, now)
        elif verb == "deregister" and (gone := registered.pop((what, f"{id_}-{what}"), None)):
            known.deregistered(gone, index, now)
        elif verb in ("alloc", "stop"):
            allocs[id_] = alloc(id_, client=what or "running", desired="run" if what else "stop", index=index)
            known.heard_allocation(allocs[id_])
        elif verb == "node":
            node = Node("n1", name="n1", status=what, modify_index=index)
            known.heard_node(node)
        elif verb == "check":
            known.heard_checks(alloc_id(id_), (CheckResult("alive", "web", what),))
        elif verb == "job":
            job = mk_job(checks=True, services=(what,) if what else (), index=index)
            known.heard_job(job)
        elif verb == "silent":
            known.silent(alloc_id(id_), now)
        elif verb == "wait":
            now += 25
        _read_missing(known, allocs)
        known.expire(now)
        after = known.take(now)
        assert after.changed is not None
        keys = before.services.keys() | after.services.keys()
        assert {k for k in keys if before.services.get(k) != after.services.get(k)} <= after.changed
        before = after
    anew = Known(Origin("global", "nomad"), Rules(), DRAIN_LIMIT, memory)
    anew.heard_namespaces(frozenset({"default"}))
    anew.heard_list(frozenset(ServiceName("default", service) for service, _ in registered), 99, now)
    for name in {service for service, _ in registered}:
        listed = tuple(one for (service, _), one in registered.items() if service == name)
        anew.heard_service(ServiceName("default", name), Listing(listed), 99, now)
    anew.heard_allocations([a for a in allocs.values() if not a.terminal], 99)
    anew.heard_node(node)
    anew.heard_job(job)
    anew.expire(now)
    _read_missing(anew, allocs)
    assert anew.take(now).services == before.services


def _read_missing(known: Known, allocs: dict[str, Allocation]) -> None:
    """What the reading does with allocations that no list has."""
    for id_ in known.missing().allocs:
        if (found := allocs.get(id_.removeprefix("alloc-").rstrip("-"))) is not None:
            known.heard_allocation(found)
        else:
            known.no_allocation(id_)
