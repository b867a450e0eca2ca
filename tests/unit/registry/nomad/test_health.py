"""The truth table of an instance's health, row by row."""

from __future__ import annotations

import pytest

from isthmus.registry.model import Health
from isthmus.registry.nomad.answers import (
    Allocation,
    CheckResult,
    CheckSpec,
    DeploymentStatus,
    DrainStrategy,
    GroupSpec,
    Job,
    Node,
    ServiceSpec,
)
from isthmus.registry.nomad.health import DEGRADED_AFTER, Checked, Evidence, judge
from isthmus.registry.nomad.spec import JobSpec, job_spec

NOW = 1_000.0

RUNNING = Allocation("a", group="web", client="running")
PENDING = Allocation("a", group="web", client="pending")
STOPPING = Allocation("a", group="web", client="running", desired="stop")
CUT_OFF = Allocation("a", group="web", client="unknown")
FOUND_HEALTHY = Allocation("a", group="web", client="running", deployment=DeploymentStatus(True))
FOUND_UNHEALTHY = Allocation("a", group="web", client="running", deployment=DeploymentStatus(False))
CANARY = Allocation("a", group="web", client="running", deployment=DeploymentStatus(None, canary=True))
BAD_CANARY = Allocation("a", group="web", client="running", deployment=DeploymentStatus(False, canary=True))
GOOD_CANARY = Allocation("a", group="web", client="running", deployment=DeploymentStatus(True, canary=True))

READY = Node("n")
DRAINING = Node("n", drain=DrainStrategy())
DRAINING_ALL_BUT_SYSTEM = Node("n", drain=DrainStrategy(ignore_system_jobs=True))
DOWN = Node("n", status="down")
DISCONNECTED = Node("n", status="disconnected")

SUCCESS = Checked((CheckResult("alive", "web", "success"), CheckResult("of another", "admin", "failure")))
FAILURE = Checked((CheckResult("alive", "web", "success"), CheckResult("ready", "web", "failure")))
FIRST = Checked((CheckResult("alive", "web", "pending"),))
NO_CHECKS = Checked(())
SILENT = Checked(SUCCESS.results, silent_since=NOW - DEGRADED_AFTER + 1)
LONG_SILENT = Checked(SUCCESS.results, silent_since=NOW - DEGRADED_AFTER)
LONG_SILENT_ILL = Checked(FAILURE.results, silent_since=NOW - DEGRADED_AFTER)
STARTED_ANEW = Checked(anew=True)


def spec(checks: bool = True, type_: str = "service", name: str = "web") -> JobSpec:
    service = ServiceSpec(name, "nomad", [CheckSpec("alive")] if checks else None)
    made = job_spec(Job("j", type=type_, groups=[GroupSpec("web", [service])]))
    assert made is not None
    return made


def judged(
    alloc: Allocation | None,
    node: Node | None = READY,
    checked: Checked | None = None,
    made: JobSpec | None = None,
    *,
    deregistered: bool = False,
) -> tuple[Health, str]:
    return judge(Evidence("web", alloc, node, made, checked, deregistered), NOW)


@pytest.mark.parametrize(
    ("alloc", "node", "checked", "health", "reason"),
    [
        (None, READY, None, Health.UNKNOWN, "its allocation is not known"),
        (Allocation("a", client="failed"), READY, SUCCESS, Health.UNHEALTHY, "its allocation is failed"),
        (Allocation("a", client="lost", desired="stop"), READY, SUCCESS, Health.UNHEALTHY, "its allocation is lost"),
        (RUNNING, DOWN, SUCCESS, Health.UNHEALTHY, "its node is down"),
        (STOPPING, READY, FAILURE, Health.DRAINING, "its allocation is told to stop"),
        (RUNNING, DRAINING, SUCCESS, Health.DRAINING, "its node drains"),
        (PENDING, READY, None, Health.UNHEALTHY, "its task does not run yet"),
        (RUNNING, READY, None, Health.UNHEALTHY, "it waits for the first result of its checks"),
        (RUNNING, READY, FIRST, Health.UNHEALTHY, "check alive: pending"),
        (RUNNING, READY, FAILURE, Health.UNHEALTHY, "check ready: failure"),
        (RUNNING, READY, SUCCESS, Health.HEALTHY, ""),
        (RUNNING, None, SUCCESS, Health.HEALTHY, ""),
        (RUNNING, READY, NO_CHECKS, Health.HEALTHY, ""),
        (FOUND_HEALTHY, READY, None, Health.HEALTHY, ""),
        (FOUND_HEALTHY, READY, FAILURE, Health.UNHEALTHY, "check ready: failure"),
        (FOUND_HEALTHY, READY, STARTED_ANEW, Health.UNHEALTHY, "it waits for the first result of its checks"),
        (FOUND_UNHEALTHY, READY, SUCCESS, Health.HEALTHY, ""),
        (FOUND_UNHEALTHY, READY, NO_CHECKS, Health.DEGRADED, "its deployment has found it unhealthy"),
        (CANARY, READY, SUCCESS, Health.UNHEALTHY, "its deployment has not found the canary healthy"),
        (BAD_CANARY, READY, SUCCESS, Health.UNHEALTHY, "its deployment has not found the canary healthy"),
        (GOOD_CANARY, READY, SUCCESS, Health.HEALTHY, ""),
        (GOOD_CANARY, READY, FAILURE, Health.UNHEALTHY, "check ready: failure"),
        (RUNNING, READY, SILENT, Health.HEALTHY, ""),
        (RUNNING, READY, LONG_SILENT, Health.DEGRADED, "its client does not answer for its checks"),
        (RUNNING, READY, LONG_SILENT_ILL, Health.UNHEALTHY, "check ready: failure"),
        (CUT_OFF, READY, SUCCESS, Health.DEGRADED, "its node is disconnected"),
        (RUNNING, DISCONNECTED, SUCCESS, Health.DEGRADED, "its node is disconnected"),
        (RUNNING, DISCONNECTED, FAILURE, Health.UNHEALTHY, "check ready: failure"),
    ],
)
def test_what_is_known_of_an_instance_with_checks(
    alloc: Allocation | None, node: Node | None, checked: Checked | None, health: Health, reason: str
) -> None:
    found, said = judged(alloc, node, checked, spec())
    assert found is health
    assert said.startswith(reason)
    assert bool(said) is bool(reason)


@pytest.mark.parametrize("made", [None, spec(checks=False), spec(name="admin")])
def test_without_checks_a_running_task_is_enough(made: JobSpec | None) -> None:
    assert judged(RUNNING, made=made) == (Health.HEALTHY, "")
    assert judged(RUNNING, made=made, checked=STARTED_ANEW) == (Health.HEALTHY, "")


def test_a_deregistered_instance_drains_for_as_long_as_its_allocation_runs() -> None:
    assert judged(RUNNING, checked=FAILURE, deregistered=True)[0] is Health.DRAINING
    assert judged(PENDING, deregistered=True)[0] is Health.DRAINING
    assert judged(Allocation("a", client="complete"), deregistered=True)[0] is Health.UNHEALTHY
    assert judged(RUNNING, DOWN, deregistered=True)[0] is Health.UNHEALTHY


@pytest.mark.parametrize(
    ("node", "type_", "health"),
    [
        (DRAINING_ALL_BUT_SYSTEM, "system", Health.HEALTHY),
        (DRAINING_ALL_BUT_SYSTEM, "service", Health.DRAINING),
        (DRAINING, "system", Health.DRAINING),
    ],
)
def test_a_drain_may_leave_system_jobs_where_they_are(node: Node, type_: str, health: Health) -> None:
    assert judged(RUNNING, node, NO_CHECKS, spec(type_=type_))[0] is health


@pytest.mark.parametrize(
    ("pattern", "name", "named"),
    [
        ("web", "web", True),
        ("web", "web2", False),
        ("w.b", "web", False),
        ("${NOMAD_META_name}", "anything", True),
        ("web-${NOMAD_DC}-x", "web-dc1-x", True),
        ("web-${NOMAD_DC}-x", "api-dc1-x", False),
    ],
)
def test_a_name_in_a_specification_may_hold_what_only_clients_resolve(pattern: str, name: str, named: bool) -> None:
    made = spec(name=pattern)
    assert made.names(name) is named
    assert made.checks("web", name) is named
    assert not made.checks("other group", name)


def test_services_of_other_providers_and_stopped_jobs_are_none_of_ours() -> None:
    consul = Job("j", groups=[GroupSpec("web", [ServiceSpec("web", "consul", [CheckSpec("alive")])])])
    made = job_spec(consul)
    assert made is not None
    assert not made.names("web")
    assert not made.checks_any("web")
    assert job_spec(Job("j", stop=True, groups=consul.groups)) is None
