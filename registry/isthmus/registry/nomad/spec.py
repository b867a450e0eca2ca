"""What a job's specification says about its services: which there are, and which have checks that Nomad runs. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from sys import intern

import msgspec

from isthmus.registry.nomad.answers import Job

_VARIABLE = re.compile(r"\$\{[^}]*\}")


class ServicePattern(msgspec.Struct, frozen=True):
    """A native service of one group. A name may hold variables that only the client resolves: these may be anything."""

    group: str
    name: str
    checked: bool
    port: str = ""
    """What the job calls the service's port."""

    def matches(self, service: str) -> bool:
        """Whether it may be the service of this name."""
        return self.name == service or ("${" in self.name and _pattern(self.name).fullmatch(service) is not None)


class JobSpec(msgspec.Struct, frozen=True):
    """A job that is registered and not stopped."""

    type: str
    version: int
    services: tuple[ServicePattern, ...]
    modify_index: int

    def names(self, service: str) -> bool:
        """Whether any group has a service of this name."""
        return any(s.matches(service) for s in self.services)

    def checks(self, group: str, service: str) -> bool:
        """Whether Nomad runs checks for this service of this group."""
        return any(s.checked and s.group == group and s.matches(service) for s in self.services)

    def port_of(self, group: str, service: str) -> str:
        """What the job calls the port of this service of this group; empty where it gives a number, or none."""
        ports = (s.port for s in self.services if s.group == group and s.matches(service))
        return next((port for port in ports if not port.isdigit()), "")

    def checks_any(self, group: str) -> bool:
        """Whether Nomad runs checks for any service of this group."""
        return any(s.checked and s.group == group for s in self.services)


def job_spec(job: Job) -> JobSpec | None:
    """What concerns us of a job; None when it is stopped, for then it has no services."""
    if job.stop:
        return None
    services = [
        ServicePattern(intern(group.name), intern(service.name), bool(service.checks), intern(service.port_label))
        for group in job.groups or ()
        for service in [*(group.services or ()), *(s for task in group.tasks or () for s in task.services or ())]
        if service.provider == "nomad"
    ]
    return JobSpec(intern(job.type), job.version, tuple(services), job.modify_index)


@lru_cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in _VARIABLE.split(name)))
