"""Following the mesh's names: a delta ADS stream to the bridge, and the table that comes of it.

What is known survives the stream, and the process: a new stream tells the bridge which versions are held, and is sent the
differences.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
import grpc.aio
import structlog
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.rpc.status_pb2 import Status

from isthmus.agent.dns.metrics import DnsMetrics
from isthmus.agent.dns.parse import Entries, parse
from isthmus.agent.dns.saved import Held, Saved
from isthmus.agent.dns.table import NameTable, RecordError
from isthmus.xds.group import AGENT_NAME
from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.services import DELTA_PATH

log = structlog.get_logger()

MAX_MESSAGE = 64 << 20
FIRST_DELAY, LAST_DELAY = 0.5, 30.0
MANY = 200
SAVE_AFTER = 1.0
"""Seconds; a burst of changes is saved once."""
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # or a new channel waits for the one before it
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def to_node(node: str, cluster: str) -> Node:
    """Who follows names: the agent of a proxy, beside it."""
    return Node(id=f"{node}/dns", cluster=cluster, user_agent_name=AGENT_NAME)


class Names:
    """The mesh's names, kept current from `run`. `on_table` is given each new table.

    `bridges` are the addresses of replicas, which are tried in turn. `credentials` are for a bridge that speaks TLS.
    """

    def __init__(
        self,
        bridges: Sequence[str],
        node: Node,
        directory: Path,
        on_table: Callable[[NameTable], None],
        metrics: DnsMetrics,
        *,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._bridges = itertools.cycle(bridges)
        self._address = next(self._bridges)
        self._node = node
        self._saved = Saved(directory)
        self._on_table = on_table
        self._metrics = metrics
        self._credentials = credentials
        self._held: dict[str, Held] = {}
        self._entries: dict[str, Entries] = {}
        self._refused: dict[str, str] = {}
        self._save: asyncio.Task[None] | None = None
        self._unsaved = False
        self._trouble = "it has not answered yet"
        self._since = time.time()
        self.synced = False
        """Whether the bridge has told all names since this process began."""

    def restore(self) -> bool:
        """Take what was saved last, so that names are answered before the bridge is; whether there was anything."""
        held, saved_at = self._saved.load()
        if not saved_at:
            return False
        for name, resource in held.items():
            try:
                self._entries[name] = parse(resource.body)
                self._held[name] = resource
            except RecordError:  # another version of this program wrote it: the bridge is going to send it again
                continue
        self._publish()
        log.info("dns.names_restored", services=len(self._held), saved_at=saved_at)
        return True

    async def run(self) -> None:
        """Follow until cancelled; reconnects for ever, with a growing delay."""
        delay = FIRST_DELAY
        try:
            while True:
                try:
                    await self._follow()
                    trouble = "it ended the stream"
                except grpc.aio.AioRpcError as e:
                    trouble = f"{e.code().name}: {(e.details() or '')[:300]}"
                answered = not self._trouble
                self._disconnected(trouble)
                self._address = next(self._bridges)
                delay = FIRST_DELAY if answered else min(delay * 2, LAST_DELAY)
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - so that not all agents come at once
        finally:
            if self._save is not None:
                self._save.cancel()
            if self._unsaved:
                self._saved.save(self._held)

    def problems(self) -> list[str]:
        """What is wrong, in sentences for an operator."""
        found = [f"DNS cannot answer {name}, as the bridge tells it: {why}" for name, why in self._refused.items()]
        if self._trouble:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._since))
            known = "names are answered as they were then" if self._held else "no names are known"
            found.append(
                f"DNS has no connection to the bridge at {self._address} since {since}: {self._trouble}; {known}"
            )
        return found

    async def _follow(self) -> None:
        """One stream, until it ends."""
        channel = (
            grpc.aio.insecure_channel(self._address, options=_OPTIONS)
            if self._credentials is None
            else grpc.aio.secure_channel(self._address, self._credentials, options=_OPTIONS)
        )
        async with channel:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(DELTA_PATH)()
            first = DeltaDiscoveryRequest(
                node=self._node,
                type_url=TypeUrl.DNS_TABLE,
                resource_names_subscribe=["*"],
                initial_resource_versions={name: held.version for name, held in self._held.items()},
            )
            await call.write(first.SerializeToString())
            while isinstance(message := await call.read(), bytes):  # else it is grpc.aio.EOF
                response = DeltaDiscoveryResponse.FromString(message)
                if response.type_url != TypeUrl.DNS_TABLE:
                    continue
                # Thousands of services take a while to read; questions are answered meanwhile.
                read = asyncio.to_thread(_read, response) if len(response.resources) > MANY else None
                error = self._take(response, *(_read(response) if read is None else await read))
                self._connected()
                acknowledgement = DeltaDiscoveryRequest(
                    type_url=TypeUrl.DNS_TABLE,
                    response_nonce=response.nonce,
                    error_detail=Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=error)
                    if error
                    else None,
                )
                await call.write(acknowledgement.SerializeToString())

    def _take(
        self, response: DeltaDiscoveryResponse, entries: Mapping[str, Entries], refused: Mapping[str, str]
    ) -> str:
        """Apply what can be applied, as an Envoy does; returns what is wrong with the rest."""
        changed = bool(entries)
        for name in response.removed_resources:
            self._refused.pop(name, None)
            changed |= self._held.pop(name, None) is not None
            self._entries.pop(name, None)
        for resource in response.resources:
            if resource.name in entries:
                self._refused.pop(resource.name, None)
                self._held[resource.name] = Held(resource.version, resource.resource.value)
        self._entries |= entries
        if changed or not self.synced:
            self._publish()
            self._save_soon()
        self.synced = True
        self._refused |= refused
        if not refused:
            return ""
        log.warning("dns.names_refused", names=dict(list(refused.items())[:10]))
        return "Error adding/updating names " + ", ".join(f"{name}: {why}" for name, why in refused.items())

    def _publish(self) -> None:
        # By resource name: where two services have one name, all agents answer the same.
        self._on_table(NameTable.of(pair for name in sorted(self._entries) for pair in self._entries[name]))

    def _save_soon(self) -> None:
        self._unsaved = True
        if self._save is None or self._save.done():
            self._save = asyncio.create_task(self._save_after(), name="dns save")

    async def _save_after(self) -> None:
        while self._unsaved:
            await asyncio.sleep(SAVE_AFTER)
            self._unsaved = False
            await asyncio.to_thread(self._saved.save, dict(self._held))

    def _connected(self) -> None:
        if self._trouble:
            log.info("dns.names_followed", bridge=self._address, services=len(self._held))
            self._trouble = ""
            self._metrics.connected.set(1)

    def _disconnected(self, trouble: str) -> None:
        if not self._trouble:
            self._since = time.time()
            self._metrics.connected.set(0)
            log.warning("dns.names_lost", bridge=self._address, reason=trouble)
        self._trouble = trouble


def _read(response: DeltaDiscoveryResponse) -> tuple[dict[str, Entries], dict[str, str]]:
    """The resources of a response by name, and why some cannot be used."""
    entries: dict[str, Entries] = {}
    refused: dict[str, str] = {}
    for resource in response.resources:
        try:
            entries[resource.name] = parse(resource.resource.value)
        except RecordError as e:
            refused[resource.name] = str(e)
    return entries, refused
