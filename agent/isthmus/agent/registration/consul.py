"""Registering with a Consul agent (https://developer.hashicorp.com/consul/api-docs/agent/service).

A service with one check, whose TTL this agent keeps up: passing or critical, as its own probe says. Consul keeps the status of a
check through a registration of the same id, so a restart shows nowhere. Draining is Consul's maintenance, which any registration
that replaces the checks ends: so that of an operator is looked for first.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import msgspec

from isthmus.agent.registration.claim import Claim, Registered
from isthmus.agent.registration.config import ConsulRegistration
from isthmus.agent.registration.http import Servers
from isthmus.agent.registration.place import epoch_in
from isthmus.registry.conventions import EPOCH, LOCALITY, PORTS, WEIGHT, to_locality, to_ports
from isthmus.registry.model import Health

MAX_META = 64
"""Pairs of metadata that Consul takes; a key may have 128 characters, of a few kinds, and a value 512."""

MAX_WEIGHT = 65535

MAINTENANCE = "_service_maintenance:"

_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_SHOWN = 400


class _Service(msgspec.Struct, rename="pascal"):
    meta: dict[str, str] | None = None


class _Check(msgspec.Struct):
    id: str = msgspec.field(name="CheckID", default="")
    notes: str = msgspec.field(name="Notes", default="")


class _Known(msgspec.Struct, rename="pascal"):
    service: _Service | None = None
    checks: list[_Check] | None = None


_known = msgspec.json.Decoder(_Known)


class ConsulPlace:
    """One Consul agent."""

    def __init__(self, config: ConsulRegistration) -> None:
        self._config = config
        headers = {"X-Consul-Token": config.token} if config.token else {}
        self._servers = Servers("consul", (config.address,), config, headers, config.tls_server_name)
        some = {"ns": config.namespace, "partition": config.partition}
        self._scope = {key: value for key, value in some.items() if value}
        self.name = self._servers.name
        self.every = config.ttl / 3

    async def close(self) -> None:
        await self._servers.close()

    async def put(self, claim: Claim) -> None:
        known = await self._find(claim)
        # What another check of ours left would count for ever; but an operator's maintenance is not ours to end.
        replace = known is None or not _is_kept_out_by_others(known)
        await self._put(
            "/v1/agent/service/register",
            to_registration(claim, self._config, new=known is None),
            {"replace-existing-checks": "true"} if replace else {},
        )
        if claim.health is Health.DRAINING:
            if replace:
                query = {"enable": "true", "reason": OUR_REASON}
                await self._put(f"/v1/agent/service/maintenance/{quote(claim.service.id, safe='')}", None, query)
        elif claim.health is not Health.UNKNOWN:
            await self._update(claim)

    async def renew(self, claim: Claim) -> bool:
        known = await self._find(claim)
        if known is None or _epoch(known, claim) != claim.epoch:
            return False
        return claim.health is Health.UNKNOWN or await self._update(claim)

    async def remove(self, claim: Claim) -> None:
        known = await self._find(claim)
        if known is not None and _epoch(known, claim) == claim.epoch:
            path = f"/v1/agent/service/deregister/{quote(claim.service.id, safe='')}"
            await self._put(path, None, {}, expected=(200, 404))

    async def _find(self, claim: Claim) -> _Known | None:
        """What the agent has under the id, which is not another's; None where there is nothing."""
        path = f"/v1/agent/health/service/id/{quote(claim.service.id, safe='')}"
        # The status tells the health: 429 is a warning, 503 critical.
        answer = await self._servers.ask("GET", path, query=self._scope, expected=(200, 404, 429, 503))
        known = answer.read(_known)
        if known.service is None:
            return None
        _epoch(known, claim)
        return known

    async def _update(self, claim: Claim) -> bool:
        """Set the check, and begin its TTL anew; False when there is no such check."""
        said = {
            "Status": "critical" if claim.health is Health.UNHEALTHY else "passing",
            "Output": claim.why[:_SHOWN],
        }
        return (
            await self._put(f"/v1/agent/check/update/{quote(check_id(claim.service), safe='')}", said, {}, (200, 404))
            == 200
        )

    async def _put(self, path: str, body: Any, query: dict[str, str], expected: tuple[int, ...] = (200,)) -> int:
        answer = await self._servers.ask("PUT", path, query=self._scope | query, body=body, expected=expected)
        return answer.status


OUR_REASON = "isthmus-agent: draining"
"""Why a service is in maintenance, when this agent put it there."""


def check_id(service: Registered) -> str:
    """The id of the check that the agent keeps up."""
    return f"isthmus:{service.id}"


def to_registration(claim: Claim, config: ConsulRegistration, *, new: bool) -> dict[str, Any]:
    """The body of a registration. A `new` one passes only if it is known to be healthy; else the check's status stays."""
    service = claim.service
    main = service.declared[0]
    meta = {
        PORTS: to_ports(service.declared),
        WEIGHT: str(service.weight),
        EPOCH: str(claim.epoch),
        # What readers who know nothing of agents go by.
        "port": str(main.number),
        "protocol": main.protocol.value,
    }
    if place := to_locality(service.locality):
        meta[LOCALITY] = place
    tags = []
    for key, value in sorted(service.labels.items()):
        if _META_KEY.fullmatch(key) and len(value) <= 512 and len(meta) < MAX_META and key not in meta:
            meta[key] = value
        else:
            tags.append(f"{key}={value}")
    check = {
        "CheckID": check_id(service),
        "Name": "as the Isthmus agent sees it",
        "TTL": str(config.ttl),
        "Status": "passing" if new and claim.health is Health.HEALTHY else "critical",
    }
    if config.deregister_critical_service_after:
        check["DeregisterCriticalServiceAfter"] = str(config.deregister_critical_service_after)
    weight = min(max(service.weight, 1), MAX_WEIGHT)
    body: dict[str, Any] = {
        "ID": service.id,
        "Name": service.service,
        "Address": service.address,
        "Port": main.here,
        "Tags": tags,
        "Meta": meta,
        "Weights": {"Passing": weight, "Warning": weight},
        "Check": check,
    }
    if service.locality.region:
        body["Locality"] = {"Region": service.locality.region, "Zone": service.locality.zone}
    return body


def _epoch(known: _Known, claim: Claim) -> int:
    meta = known.service.meta if known.service else None
    return epoch_in(meta, claim.service.id, claim.epoch, EPOCH)


def _is_kept_out_by_others(known: _Known) -> bool:
    return any(c.id.startswith(MAINTENANCE) and c.notes != OUR_REASON for c in known.checks or ())
