"""A question to Consul, as a value, and how urgent it is. Pure."""

from __future__ import annotations

import enum

import msgspec

from isthmus.registry.consul.config import ConsulConfig


class Urgency(enum.IntEnum):
    """Why something is read, the most urgent first."""

    HINT = 0
    """The few queries that tell which services to read, and prove that Consul is alive."""
    NAMED = 1
    """A service that is watched, or that a hint names, or that was never read."""
    PROBED = 2
    """One of many in which something may have changed: it is asked for its index first."""
    SWEPT = 3
    """One of all, whatever its index, now and then and for audits."""


class Query(msgspec.Struct, frozen=True):
    """One GET. With an `index` it is a blocking query, held for at most `wait` seconds.

    It is about the configured datacenter or peer, namespace and partition, unless it stands `apart`: then it is about the agent
    or its own cluster, and the answer may be without an index.
    """

    path: str
    urgency: Urgency
    index: int = 0
    wait: float = 0
    stale: bool = True
    apart: bool = False
    options: tuple[tuple[str, str], ...] = ()

    def params(self, config: ConsulConfig) -> list[tuple[str, str]]:
        """What follows the question mark."""
        about = {
            "dc": config.datacenter,
            "peer": config.peer,
            "ns": config.namespace,
            "partition": config.partition,
        }
        params = [] if self.apart else [(name, value) for name, value in about.items() if value]
        if config.consistency == "consistent" or (config.consistency == "stale" and self.stale):
            params.append((config.consistency, ""))
        if self.index:
            params += [("index", str(self.index)), ("wait", f"{int(self.wait * 1000)}ms")]
        return params + list(self.options)
