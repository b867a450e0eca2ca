"""Registering with the bridge itself (docs/workloads.md): it keeps the workloads in its store, and reads them as a registry."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from isthmus.agent.registration.claim import Claim
from isthmus.agent.registration.config import BridgeRegistration
from isthmus.agent.registration.http import Answer, Servers
from isthmus.agent.registration.place import SupersededError
from isthmus.registry.model import Health


class _Kept(msgspec.Struct):
    health: str = ""


_kept = msgspec.json.Decoder(_Kept)


class BridgePlace:
    """The replicas of one bridge."""

    def __init__(self, config: BridgeRegistration) -> None:
        self._config = config
        headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}
        self._servers = Servers("bridge", config.addresses, config, headers)
        self.name = self._servers.name
        self.every = config.ttl / 3

    async def close(self) -> None:
        await self._servers.close()

    async def put(self, claim: Claim) -> None:
        health = claim.health
        if health is Health.UNKNOWN:
            health = await self._kept(claim)
        body = to_workload(claim, health, self._config)
        _not_newer(await self._servers.ask("PUT", _path(claim), body=body, expected=(200, 409)), claim)

    async def renew(self, claim: Claim) -> bool:
        path, body = f"{_path(claim)}/heartbeat", {"epoch": claim.epoch}
        answer = await self._servers.ask("POST", path, body=body, expected=(200, 404, 409))
        _not_newer(answer, claim)
        return answer.status == 200

    async def remove(self, claim: Claim) -> None:
        query = {"epoch": str(claim.epoch)}
        answer = await self._servers.ask("DELETE", _path(claim), query=query, expected=(200, 204, 404, 409))
        _not_newer(answer, claim)

    async def _kept(self, claim: Claim) -> Health:
        """What health the bridge still has of an instance whose first verdict is to come."""
        answer = await self._servers.ask("GET", _path(claim), expected=(200, 404, 405))
        kept = answer.status == 200 and answer.read(_kept).health == Health.HEALTHY.value
        return Health.HEALTHY if kept else Health.UNHEALTHY


def to_workload(claim: Claim, health: Health, config: BridgeRegistration) -> dict[str, Any]:
    """The body of a registration."""
    service = claim.service
    place = service.locality
    return {
        "service": service.service,
        "namespace": service.namespace,
        "address": service.address,
        "ports": dict(service.ports),
        "numbers": {p.name: p.number for p in service.declared},
        "protocols": {p.name: p.protocol.value for p in service.declared},
        "health": health.value,
        "weight": service.weight,
        "labels": dict(service.labels),
        "locality": {"region": place.region, "zone": place.zone, "sub_zone": place.sub_zone},
        "epoch": claim.epoch,
        "ttl": max(1, round(config.ttl)),
    }


def _path(claim: Claim) -> str:
    return f"/v1/workloads/{quote(claim.service.id, safe='')}"


def _not_newer(answer: Answer, claim: Claim) -> None:
    if answer.status == 409:
        said = " ".join(answer.body[:300].decode(errors="replace").split())
        raise SupersededError(
            f"{claim.service.id} is registered by a newer agent (our epoch is {claim.epoch}): stop one of the two, or give it "
            f"another id ({answer.where}: 409 {said})"
        )
