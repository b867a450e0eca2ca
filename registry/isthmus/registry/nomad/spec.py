"""What a job's specification says about its services: which there are, and which have checks that Nomad runs. Pure."""

from __future__ import annotations

import re

import msgspec

from isthmus.registry.nomad.answers import Job

_VARIABLE = re.compile(r"\$\{[^}]*\}")


class ServicePattern(msgspec.Struct, frozen=True):
    """A native service of one group. A name may hold variables that only the client resolves: these may be anything."""

    group: str
    name: re.Pattern[str]
    checked: bool
    port: str = ""
    """What the job calls the service's port."""


class JobSpec(msgspec.Struct, frozen=True):
    """A job that is registered and not stopped."""

    type: str
    version: int
    services: tuple[ServicePattern, ...]
    modify_index: int

    def names(self, service: str) -> bool:
        """Whether any group has a service of this name."""
        return any(s.name.fullmatch(service) for s in self.services)

    def checks(self, group: str, service: str) -> bool:
        """Whether Nomad runs checks for this service of this group."""
        return any(s.checked and s.group == group and s.name.fullmatch(service) for s in self.services)

    def port_of(self, group: str, service: str) -> str:
        """What the job calls the port of this service of this group; empty where it gives a number, or none."""
        ports = (s.port for s in self.services if s.group == group and s.name.fullmatch(service))
        return next((port for port in ports if not port.isdigit()), "")

    def checks_any(self, group: str) -> bool:
        """Whether Nomad runs checks for any service of this group."""
        return any(s.checked and s.group == group for s in self.services)


def job_spec(job: Job) -> JobSpec | None:
    """What concerns us of a job; None when it is stopped, for then it has no services."""
    if job.stop:
        return None
    services = [
        ServicePattern(group.name, _pattern(service.name), bool(service.checks), service.port_label)
        for group in job.groups or ()
        for service in [*(group.services or ()), *(s for task in group.tasks or () for s in task.services or ())]
        if service.provider == "nomad"
    ]
    return JobSpec(job.type, job.version, tuple(services), job.modify_index)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in _VARIABLE.split(name)))
