"""What may be sent to an instance: the truth table of all that Nomad knows about it. Pure.

Nomad lists an instance from the moment in which its workload is registered, before its task is known to run and before any check
has passed, and takes it off the list when it is told to stop, while its task still serves. So the list alone says little.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from isthmus.registry.model import Health
from isthmus.registry.nomad.answers import Allocation, CheckResult, Node
from isthmus.registry.nomad.spec import JobSpec

DEGRADED_AFTER = 60.0
"""Seconds without an answer of the client that runs the checks, after which their last success counts for less."""


class Checked(msgspec.Struct, frozen=True):
    """What the client that runs an allocation has said about its checks.

    `results` are those of its last answer, None before there was one that counts. `silent_since` is the monotonic second since
    which the client does not answer. `anew` says that the tasks have begun anew, since when no result has come.
    """

    results: tuple[CheckResult, ...] | None = None
    silent_since: float | None = None
    anew: bool = False

    def of(self, service: str) -> list[CheckResult]:
        return [r for r in self.results or () if r.service == service]

    def counts_less(self, now: float) -> bool:
        """Whether the client has been silent for so long that its last word is in doubt."""
        return self.silent_since is not None and now - self.silent_since >= DEGRADED_AFTER


class Evidence(msgspec.Struct, frozen=True):
    """All that is known about one instance besides its registration; None is what cannot be read or is not known yet."""

    service: str
    alloc: Allocation | None
    node: Node | None
    spec: JobSpec | None
    checked: Checked | None
    deregistered: bool = False


def judge(evidence: Evidence, now: float) -> tuple[Health, str]:
    """The health of an instance, and the reason unless it is simply healthy. The first rule that applies decides."""
    alloc, node = evidence.alloc, evidence.node
    if alloc is None:
        return Health.UNKNOWN, "its allocation is not known"
    if alloc.terminal:
        return Health.UNHEALTHY, f"its allocation is {alloc.client}"
    if node is not None and node.status == "down":
        return Health.UNHEALTHY, "its node is down"
    if alloc.desired != "run":
        return Health.DRAINING, "its allocation is told to stop"
    if evidence.deregistered:
        return Health.DRAINING, "it is deregistered"
    if node is not None and node.drain is not None and not _stays(evidence):
        return Health.DRAINING, "its node drains"
    if alloc.client == "pending":
        return Health.UNHEALTHY, "its task does not run yet"
    health, reason = _judge_running(evidence, alloc, now)
    cut_off = alloc.client == "unknown" or (node is not None and node.status == "disconnected")
    if cut_off and health is Health.HEALTHY:
        return Health.DEGRADED, "its node is disconnected"
    return health, reason


def _stays(evidence: Evidence) -> bool:
    """Whether the drain of the node leaves the allocation where it is."""
    node, spec = evidence.node, evidence.spec
    is_system = spec is not None and spec.type in ("system", "sysbatch")
    return is_system and node is not None and node.drain is not None and node.drain.ignore_system_jobs


def _judge_running(evidence: Evidence, alloc: Allocation, now: float) -> tuple[Health, str]:
    deployment = alloc.deployment
    judged = deployment.healthy if deployment else None
    if deployment is not None and deployment.canary and judged is not True:
        return Health.UNHEALTHY, "its deployment has not found the canary healthy"
    checked = evidence.checked or Checked()
    if checked.results is None:
        has_checks = evidence.spec is not None and evidence.spec.checks(alloc.group, evidence.service)
        if has_checks and (checked.anew or judged is not True):
            return Health.UNHEALTHY, "it waits for the first result of its checks"
    elif results := checked.of(evidence.service):
        for status in ("failure", "pending"):
            if ill := _names(r for r in results if r.status == status):
                return Health.UNHEALTHY, f"check {ill}: {status}"
        if checked.counts_less(now):
            return Health.DEGRADED, "its client does not answer for its checks"
        return Health.HEALTHY, ""  # what the checks say now is newer than what the deployment found once
    if judged is False:
        return Health.DEGRADED, "its deployment has found it unhealthy, and it has no checks to say otherwise"
    return Health.HEALTHY, ""


def _names(results: Iterable[CheckResult]) -> str:
    return ", ".join(sorted(r.check or "without a name" for r in results))[:200]
