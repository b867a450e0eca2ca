"""Registering with Eureka (https://github.com/Netflix/eureka/wiki/Eureka-REST-operations).

What health it has, an instance tells by registering anew: a server believes UP, DOWN and STARTING. OUT_OF_SERVICE it does not
believe; that is an override, as an operator sets it, and it outlives registrations. So an agent that drains marks the instance in
its metadata, and the agent after it takes the override away only if that mark is there.

Tried with Spring Cloud's 2025.0.0: a registration whose `lastDirtyTimestamp` is smaller than the known one changes nothing.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from isthmus.agent.registration.claim import Claim
from isthmus.agent.registration.config import EurekaRegistration
from isthmus.agent.registration.http import Servers
from isthmus.agent.registration.place import RegistrationError, epoch_in
from isthmus.registry.conventions import DRAINED, EPOCH, LOCALITY, PORTS, WEIGHT, to_locality, to_ports
from isthmus.registry.eureka.answers import Record, parse_instance
from isthmus.registry.model import Health, Protocol

OUT_OF_SERVICE = "OUT_OF_SERVICE"

_STATUS: Mapping[Health, str] = {Health.HEALTHY: "UP", Health.UNHEALTHY: "DOWN"}


class EurekaPlace:
    """All servers of one Eureka, which tell each other."""

    def __init__(self, config: EurekaRegistration) -> None:
        self._config = config
        headers = {}
        if config.user:
            credentials = base64.b64encode(f"{config.user}:{config.password}".encode()).decode()
            headers["Authorization"] = f"Basic {credentials}"
        self._servers = Servers("eureka", config.addresses, config, headers)
        self.name = self._servers.name
        self.every = float(config.heartbeat)

    async def close(self) -> None:
        await self._servers.close()

    async def put(self, claim: Claim) -> None:
        path = _path(claim)
        known = await self._find(claim)
        draining = claim.health is Health.DRAINING
        status = _STATUS.get(claim.health) or (known.status if known else "")
        if status not in ("UP", "DOWN"):
            status = "STARTING"
        dirty = max(int(time.time() * 1000), known.dirty + 1 if known else 0)
        ours = known is not None and DRAINED in known.metadata
        theirs = known is not None and not ours and OUT_OF_SERVICE in (known.overridden, known.status)
        if ours and not draining:
            await self._servers.ask(
                "DELETE", f"{path}/status", query={"value": status, "lastDirtyTimestamp": str(dirty)}
            )
            dirty += 1
        instance = to_instance(claim, status, dirty, self._config, drained=draining and not theirs)
        await self._servers.ask("POST", path.rpartition("/")[0], body=instance, expected=(200, 204))
        if draining:
            query = {"value": OUT_OF_SERVICE, "lastDirtyTimestamp": str(dirty + 1)}
            await self._servers.ask("PUT", f"{path}/status", query=query)

    async def renew(self, claim: Claim) -> bool:
        known = await self._find(claim)
        if known is None or _epoch(known, claim) != claim.epoch:
            return False
        return (await self._servers.ask("PUT", _path(claim), expected=(200, 404))).status == 200

    async def remove(self, claim: Claim) -> None:
        known = await self._find(claim)
        if known is not None and _epoch(known, claim) == claim.epoch:
            await self._servers.ask("DELETE", _path(claim), expected=(200, 404))

    async def _find(self, claim: Claim) -> Record | None:
        """What the servers have under the id, which is not another's; None where there is nothing."""
        answer = await self._servers.ask("GET", _path(claim), expected=(200, 404))
        if answer.status == 404:
            return None
        try:
            record = parse_instance(answer.body, _app(claim)).record
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise RegistrationError(f"{answer.where}: the answer is not what Eureka documents: {e}") from None
        _epoch(record, claim)
        return record


def to_instance(claim: Claim, status: str, dirty: int, config: EurekaRegistration, *, drained: bool) -> dict[str, Any]:
    """The body of a registration. `dirty` is when the instance last changed, in milliseconds."""
    service = claim.service
    ports = service.declared
    main = ports[0]
    plain = next((p.here for p in ports if p.protocol is not Protocol.HTTPS), 0)
    secure = next((p.here for p in ports if p.protocol is Protocol.HTTPS), 0)
    metadata = dict(service.labels) | {
        PORTS: to_ports(ports),
        WEIGHT: str(service.weight),
        EPOCH: str(claim.epoch),
        # What readers who know nothing of agents go by.
        "port": str(main.number),
        "protocol": main.protocol.value,
        "weight": str(max(service.weight, 1)),
    }
    if place := to_locality(service.locality):
        metadata |= {LOCALITY: place, "zone": service.locality.zone}
    if drained:
        metadata[DRAINED] = str(claim.epoch)
    return {
        "instance": {
            "instanceId": service.id,
            "app": _app(claim),
            # Some clients call the one, some the other: both have to lead there.
            "hostName": service.address,
            "ipAddr": service.address,
            "vipAddress": service.service,
            "secureVipAddress": service.service,
            "status": status,
            "port": {"$": plain or 80, "@enabled": str(bool(plain)).lower()},
            "securePort": {"$": secure or 443, "@enabled": str(bool(secure)).lower()},
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "leaseInfo": {
                "renewalIntervalInSecs": max(1, round(config.heartbeat)),
                "durationInSecs": max(1, round(config.heartbeat)) * 3,
            },
            "metadata": metadata,
            "lastDirtyTimestamp": str(dirty),
        }
    }


def _app(claim: Claim) -> str:
    return claim.service.service.upper()


def _path(claim: Claim) -> str:
    return f"/apps/{quote(_app(claim), safe='')}/{quote(claim.service.id, safe='')}"


def _epoch(record: Record, claim: Claim) -> int:
    return epoch_in(dict(record.metadata), claim.service.id, claim.epoch, EPOCH)
