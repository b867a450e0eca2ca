"""Registering in etcd: one key for each instance, on a lease, in the layout of Kratos (`isthmus.registry.etcd.layouts`).

Of what is written there a reader knows no health but that the key is there, and its weight: an instance that is not healthy has
the weight 0, which the bridge reads as unhealthy, and one that drains has no key. Every write compares the key's revision, so of
two agents none overwrites or deletes what the other has just written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import msgspec

from isthmus.agent.registration.claim import Claim, Registered
from isthmus.agent.registration.config import EtcdRegistration
from isthmus.agent.registration.place import RegistrationError, epoch_in
from isthmus.registry.adapter import AdapterError
from isthmus.registry.conventions import EPOCH, LOCALITY, PORTS, WEIGHT, to_locality, to_ports
from isthmus.registry.etcd.api import Member, NoSuchLeaseError, RefusedError
from isthmus.registry.etcd.config import EtcdConfig, Prefix
from isthmus.registry.etcd.proto import rpc_pb2 as rpc
from isthmus.registry.model import Health

MAX_VALUE = 64 * 1024
"""Bytes of a value that is read back."""

T = TypeVar("T")


class _Value(msgspec.Struct):
    metadata: dict[str, str] | None = None


_value = msgspec.json.Decoder(_Value)


class EtcdPlace:
    """One etcd cluster, by one of its members."""

    def __init__(self, config: EtcdRegistration) -> None:
        self._config = config
        self._endpoints = list(config.endpoints)
        self._connection = EtcdConfig(
            prefixes=(Prefix(config.prefix),),
            endpoints=config.endpoints,
            user=config.user,
            password=config.password,
            ca_file=config.ca_file,
            cert_file=config.cert_file,
            key_file=config.key_file,
            tls_server_name=config.tls_server_name,
        )
        self._open: _Open | None = None
        self._opening = asyncio.Lock()
        self._leases: dict[str, int] = {}
        """By the id of the instance: those that this agent was granted."""
        self.name = f"etcd at {config.endpoints[0]}"
        self.every = config.ttl / 3

    async def close(self) -> None:
        mine, self._open = self._open, None
        if mine is not None:
            await mine.member.close()

    async def put(self, claim: Claim) -> None:
        await self._by_any(lambda member: self._put(member, claim))

    async def renew(self, claim: Claim) -> bool:
        return await self._by_any(lambda member: self._renew(member, claim))

    async def remove(self, claim: Claim) -> None:
        await self._by_any(lambda member: self._remove(member, claim))

    async def _put(self, member: Member, claim: Claim) -> None:
        if claim.health is Health.DRAINING:
            await self._remove(member, claim, at_most=claim.epoch)
            return
        known = await self._find(member, claim)
        key, id_ = key_of(claim.service, self._config.prefix), claim.service.id
        if id_ not in self._leases:
            granted = await member.grant(rpc.LeaseGrantRequest(ttl=max(1, round(self._config.ttl))))
            self._leases[id_] = granted.id
        serves = claim.health is Health.HEALTHY or (
            claim.health is Health.UNKNOWN and known is not None and _serves(known)
        )
        write = rpc.PutRequest(key=key, value=to_value(claim, serves=serves), lease=self._leases[id_])
        try:
            answer = await member.transaction(
                rpc.TxnRequest(compare=[_unchanged(key, known)], success=[rpc.RequestOp(request_put=write)])
            )
        except NoSuchLeaseError:
            del self._leases[id_]
            raise
        if not answer.succeeded:
            raise RegistrationError(
                f"etcd at {member.endpoint}: {key.decode()} was written by somebody else at the same time"
            )

    async def _renew(self, member: Member, claim: Claim) -> bool:
        known = await self._find(member, claim)
        if claim.health is Health.DRAINING:
            return known is None
        lease = self._leases.get(claim.service.id, 0)
        if known is None or known.lease != lease or _epoch(known, claim) != claim.epoch:
            return False
        if (await member.keep_alive(rpc.LeaseKeepAliveRequest(id=lease))).ttl > 0:
            return True
        del self._leases[claim.service.id]
        return False

    async def _remove(self, member: Member, claim: Claim, at_most: int = 0) -> None:
        """Delete the key, if it is of this epoch, or not of a larger one than `at_most`."""
        known = await self._find(member, claim)
        if known is not None and (_epoch(known, claim) == claim.epoch or _epoch(known, claim) <= at_most):
            delete = rpc.DeleteRangeRequest(key=known.key)
            answer = await member.transaction(
                rpc.TxnRequest(
                    compare=[_unchanged(known.key, known)], success=[rpc.RequestOp(request_delete_range=delete)]
                )
            )
            if not answer.succeeded:
                raise RegistrationError(
                    f"etcd at {member.endpoint}: {known.key.decode()} changed just now; not deleted"
                )
        if lease := self._leases.pop(claim.service.id, 0):
            with contextlib.suppress(NoSuchLeaseError):  # it has ended by itself
                await member.revoke(rpc.LeaseRevokeRequest(id=lease))

    async def _find(self, member: Member, claim: Claim) -> rpc.KeyValue | None:
        """The instance's key, which is not another's; None where there is none."""
        answer = await member.range(rpc.RangeRequest(key=key_of(claim.service, self._config.prefix)))
        if not answer.kvs:
            return None
        _epoch(answer.kvs[0], claim)
        return answer.kvs[0]

    async def _by_any(self, do: Callable[[Member], Awaitable[T]]) -> T:
        """Have it done by the member in use, or by the next one that can."""
        failed: list[str] = []
        for _ in range(len(self._endpoints)):
            try:
                async with self._in_use() as member:
                    return await do(member)
            except (RefusedError, NoSuchLeaseError) as e:
                raise RegistrationError(str(e)) from None  # any other would say the same
            except AdapterError as e:
                failed.append(str(e))
        raise RegistrationError("; ".join(failed))

    @contextlib.asynccontextmanager
    async def _in_use(self) -> AsyncGenerator[Member]:
        """The member in use. When it fails, the next one is; it is closed when nobody waits for it any more.

        A new connection is made then, for gRPC waits up to two minutes with trying again on the old one.
        """
        async with self._opening:
            mine = self._open = self._open or _Open(await self._connect())
        mine.users += 1
        try:
            yield mine.member
        except (RefusedError, NoSuchLeaseError):
            raise
        except AdapterError:
            if self._open is mine:
                self._open = None
                self._turn()
            raise
        finally:
            mine.users -= 1
            if mine is not self._open and not mine.users:
                await mine.member.close()

    async def _connect(self) -> Member:
        member = Member(self._connection, self._endpoints[0], _Uncounted())
        try:
            await member.sign_in()
        except AdapterError as e:
            await member.close()
            if not isinstance(e, RefusedError):
                self._turn()
            raise
        return member

    def _turn(self) -> None:
        self._endpoints.append(self._endpoints.pop(0))
        self.name = f"etcd at {self._endpoints[0]}"


class _Open:
    """A member that there is a connection to, and how many wait for it."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.users = 0


class _Uncounted:
    """For the statistics of reads, of which the agent keeps none."""

    def read(self) -> None: ...
    def failed(self) -> None: ...
    def wake_up(self) -> None: ...
    def delayed(self) -> None: ...
    def alive(self) -> None: ...
    def feed_is(self, state: str) -> None: ...


def key_of(service: Registered, prefix: str) -> bytes:
    """The key of an instance."""
    return f"{prefix}{'' if prefix.endswith('/') else '/'}{service.service}/{service.id}".encode()


def to_value(claim: Claim, *, serves: bool) -> bytes:
    """What the key says. Kratos has one endpoint for each protocol."""
    service = claim.service
    endpoints: dict[str, str] = {}
    host = f"[{service.address}]" if ":" in service.address else service.address
    for port in service.declared:
        endpoints.setdefault(port.protocol.value, f"{port.protocol.value}://{host}:{port.here}")
    metadata = dict(service.labels) | {
        PORTS: to_ports(service.declared),
        WEIGHT: str(service.weight),
        EPOCH: str(claim.epoch),
        # What readers who know nothing of agents go by.
        "weight": str(max(service.weight, 1) if serves else 0),
    }
    if place := to_locality(service.locality):
        metadata |= {LOCALITY: place, "region": service.locality.region, "zone": service.locality.zone}
    said = {
        "id": service.id,
        "name": service.service,
        "version": service.labels.get("version", ""),
        "metadata": metadata,
        "endpoints": list(endpoints.values()),
    }
    return msgspec.json.encode(said)


def _unchanged(key: bytes, known: rpc.KeyValue | None) -> rpc.Compare:
    """That the key is as it was read; revision 0 is that of a key that is not there."""
    return rpc.Compare(
        result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=known.mod_revision if known else 0
    )


def _metadata(known: rpc.KeyValue) -> dict[str, str]:
    try:
        return _value.decode(known.value).metadata or {} if len(known.value) <= MAX_VALUE else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _epoch(known: rpc.KeyValue, claim: Claim) -> int:
    return epoch_in(_metadata(known), claim.service.id, claim.epoch, EPOCH)


def _serves(known: rpc.KeyValue) -> bool:
    return _metadata(known).get("weight") != "0"
