"""What each client is known to have, for whoever asks over gRPC (CSDS, envoy.service.status.v3).

An answer may be long: every resource of every client. So it is made when it is asked for, in slices beside everything else, and
refused when it would be too long. `isthmus proxy-status` asks for less, over HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import grpc
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus, UpdateFailureState
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.status.v3.csds_pb2 import ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from isthmus.xds.protocol.response import TypeStatus
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.server.calls import Call, Proxy
from isthmus.xds.server.pump import SLICE_SECONDS
from isthmus.xds.server.refusal import Refusal, wrong

ANSWER_LIMIT = 16 << 20
"""Bytes of one answer."""

_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": str.__contains__,
}
_SERVED = {str(t): t for t in TypeUrl}


class ClientStatuses:
    """Answers requests. `done` is told when an answer is in the call's outbox, `failed` when there can be none."""

    def __init__(self, done: Callable[[Call], None], failed: Callable[[Call, Refusal], None]) -> None:
        self._done = done
        self._failed = failed

    def receive(self, call: Call, message: bytes, proxies: Sequence[Proxy]) -> None:
        """Begin to answer; the call waits until that is done.

        Raises:
            Refusal: the request cannot be understood.

        """
        try:
            request = ClientStatusRequest.FromString(message)
        except DecodeError:
            raise wrong("protocol", "the request is not a client status request") from None
        wanted = [p for p in proxies if p.node and _is_asked_for(p.node, request)]
        call.waits = True
        answer = ClientStatusResponse()
        self._go_on(call, answer, _fill(answer, wanted, contents=not request.exclude_resource_contents), 0)

    def _go_on(self, call: Call, answer: ClientStatusResponse, filling: Iterator[int], size: int) -> None:
        until = time.monotonic() + SLICE_SECONDS
        for more in filling:
            size += more
            if call.ended:
                return
            if size > ANSWER_LIMIT:
                text = (
                    f"the answer has more than {ANSWER_LIMIT} bytes; choose clients with node_matchers, "
                    "or set exclude_resource_contents"
                )
                self._failed(call, Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "answer", text))
                return
            if time.monotonic() > until:
                asyncio.get_running_loop().call_soon(self._go_on, call, answer, filling, size)
                return
        call.waits = False
        call.outbox.append((None, answer.SerializeToString()))
        self._done(call)


def _is_asked_for(node: str, request: ClientStatusRequest) -> bool:
    """Whether any matcher fits; all are asked for without any."""
    fits = not request.node_matchers
    for matcher in request.node_matchers:
        kind = matcher.node_id.WhichOneof("match_pattern") or ""
        if matcher.node_metadatas or matcher.node_id.ignore_case or kind not in _MATCHES:
            raise wrong("protocol", f"node_matchers: expected node_id with one of {', '.join(_MATCHES)}")
        fits |= _MATCHES[kind](node, getattr(matcher.node_id, kind))
    return fits


def _fill(answer: ClientStatusResponse, proxies: Sequence[Proxy], *, contents: bool) -> Iterator[int]:
    """Add the clients one by one; yields the bytes added, after each resource that was looked at."""
    for proxy in proxies:
        config = answer.config.add(
            node=Node(id=proxy.node, cluster=proxy.cluster, user_agent_name=proxy.user_agent), client_scope=proxy.peer
        )
        yield config.ByteSize()
        machine, view = proxy.machine, proxy.view
        if machine is None or view is None or proxy.ended:
            continue
        for status in machine.status():
            of_type = _of_type(status, late=proxy.queued)
            config.generic_xds_configs.append(of_type)
            yield of_type.ByteSize()
            for name in status.parked:
                refused = _of_parked(status, name)
                config.generic_xds_configs.append(refused)
                yield refused.ByteSize()
            for name in sorted(machine.missing(status.type_url)):
                missing = _of_missing(status, name)
                config.generic_xds_configs.append(missing)
                yield missing.ByteSize()
            type_url = _SERVED.get(status.type_url)
            if type_url is None or not (status.wildcard or status.subscribed):
                continue
            served = view.snapshot.of_type(type_url)
            for name, current in served.items():
                told = machine.told(type_url, name)
                if told is not None and name not in status.parked:
                    resource = _of_resource(status, told, is_current=told.version == current.version)
                    if contents:
                        resource.xds_config.CopyFrom(Any(type_url=type_url, value=told.body))
                    config.generic_xds_configs.append(resource)
                    yield resource.ByteSize()
                else:
                    yield 0


def _of_type(status: TypeStatus, *, late: bool) -> ClientConfig.GenericXdsConfig:
    """A type as a whole, under no name: the version that was accepted, and the last refusal's text."""
    if status.error:
        config, client = ConfigStatus.ERROR, ClientResourceStatus.NACKED
    elif not status.sent:
        config, client = ConfigStatus.NOT_SENT, ClientResourceStatus.REQUESTED
    elif status.in_flight or status.pending or late:
        config, client = ConfigStatus.STALE, ClientResourceStatus.REQUESTED
    else:
        config, client = ConfigStatus.SYNCED, ClientResourceStatus.ACKED
    return ClientConfig.GenericXdsConfig(
        type_url=status.type_url,
        version_info=status.acked,
        config_status=config,
        client_status=client,
        error_state=UpdateFailureState(details=status.error, version_info=status.sent) if status.error else None,
    )


def _of_resource(status: TypeStatus, told: Resource, *, is_current: bool) -> ClientConfig.GenericXdsConfig:
    """One resource: the version that was sent."""
    settled = is_current and not status.in_flight
    return ClientConfig.GenericXdsConfig(
        type_url=status.type_url,
        name=told.name,
        version_info=told.version,
        config_status=ConfigStatus.SYNCED if settled else ConfigStatus.STALE,
        client_status=ClientResourceStatus.REQUESTED if status.in_flight else ClientResourceStatus.ACKED,
    )


def _of_missing(status: TypeStatus, name: str) -> ClientConfig.GenericXdsConfig:
    """A name that the client has asked for and that does not exist; it gets it as soon as it does."""
    return ClientConfig.GenericXdsConfig(
        type_url=status.type_url,
        name=name,
        config_status=ConfigStatus.NOT_SENT,
        client_status=ClientResourceStatus.DOES_NOT_EXIST,
    )


def _of_parked(status: TypeStatus, name: str) -> ClientConfig.GenericXdsConfig:
    """A resource that the client has refused; it goes on with what it had under the name, if anything."""
    return ClientConfig.GenericXdsConfig(
        type_url=status.type_url,
        name=name,
        config_status=ConfigStatus.ERROR,
        client_status=ClientResourceStatus.NACKED,
        error_state=UpdateFailureState(details=status.error),
    )
