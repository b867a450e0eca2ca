"""What is known of one open stream, whatever it speaks, and of one that speaks xDS."""

from __future__ import annotations

import asyncio
import time

from envoy.config.core.v3.base_pb2 import Node
from google.protobuf.json_format import MessageToJson

from isthmus.xds.group import Kind, Outbound, ProxyGroup, group_of
from isthmus.xds.protocol.delta import DeltaStream
from isthmus.xds.protocol.response import Response
from isthmus.xds.protocol.sotw import SotwStream
from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.limits import Pace
from isthmus.xds.server.refusal import wrong
from isthmus.xds.server.services import Discovery, Other
from isthmus.xds.server.transport import Event
from isthmus.xds.server.views import View

NODE_LIMIT = 256
"""Characters of a node id or cluster that are kept."""


class Call:
    """One open stream."""

    __slots__ = (
        "blocked",
        "ended",
        "finished",
        "greeted",
        "held",
        "id",
        "method",
        "outbox",
        "pace",
        "paused",
        "peer",
        "reading",
        "silence",
        "slowed",
        "waits",
    )

    def __init__(self, event: Event, method: Discovery | Other) -> None:
        self.id = event.id
        self.peer = event.peer
        self.method = method
        self.held: list[bytes] = []
        """Requests that have come and are not looked at yet."""
        self.waits = False
        """Nothing can be made of its next request now."""
        self.paused = False
        """The transport does not read from it."""
        self.slowed = False
        """It has been, for sending more than it may; said once in the log."""
        self.pace = Pace()
        self.reading: asyncio.TimerHandle | None = None
        """Reads on when it may send again."""
        self.silence: asyncio.TimerHandle | None = None
        """Ends it if nothing comes."""
        self.outbox: list[tuple[Response | None, bytes]] = []
        self.blocked = False
        """The transport still holds a message for it."""
        self.finished = False
        """Its client sends nothing more, or is owed nothing more: it ends when all that is due has gone."""
        self.greeted = False
        """A load report stream has been told what to report."""
        self.ended = False
        """It is being closed; what still comes from it is not looked at."""

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return ""

    def close(self) -> None:
        """Let go of what would come back to it."""
        if self.reading is not None:
            self.reading.cancel()
            self.reading = None
        self.spoke()

    def spoke(self) -> None:
        """Its client has said something."""
        if self.silence is not None:
            self.silence.cancel()
            self.silence = None


class Proxy(Call):
    """A stream of the xDS protocol. There is no machine until its first request has told whose view it is served."""

    __slots__ = (
        "behind",
        "cluster",
        "connected_since",
        "group",
        "lag_ms",
        "machine",
        "node",
        "queued",
        "remark",
        "type_url",
        "user_agent",
        "view",
        "waking",
    )

    def __init__(self, event: Event, method: Discovery) -> None:
        super().__init__(event, method)
        self.type_url = method.type_url
        self.machine: SotwStream | DeltaStream | None = None
        self.group: ProxyGroup | None = None
        self.view: View | None = None
        self.node = ""
        self.cluster = ""
        self.user_agent = ""
        self.remark = ""
        """What is not understood of its node."""
        self.connected_since = time.time()
        self.queued = False
        """A newer snapshot has come, and it is not its turn yet."""
        self.behind = False
        """A newer snapshot came while the outbox was not empty."""
        self.waking: asyncio.TimerHandle | None = None
        self.lag_ms: dict[TypeUrl, float] = {}

    @property
    def name(self) -> str:
        return self.node

    @property
    def delta(self) -> bool:
        """Which variant of the protocol it speaks."""
        return isinstance(self.method, Discovery) and self.method.delta

    def introduce(self, node: Node) -> None:
        """Keep of the node what grouping and status need; the rest is dropped.

        Raises:
            Refusal: it has no id.

        """
        if not node.id:
            raise wrong("protocol", "the first request has no node.id; set `node.id` in the proxy's bootstrap")
        self.node = node.id[:NODE_LIMIT]
        self.cluster = node.cluster[:NODE_LIMIT]
        version = node.user_agent_build_version.version
        self.user_agent = (
            f"{node.user_agent_name} {version.major_number}.{version.minor_number}.{version.patch}"
            if node.HasField("user_agent_build_version")
            else f"{node.user_agent_name} {node.user_agent_version}".strip()
        )[:NODE_LIMIT]
        outbound = node.metadata.fields.get("OUTBOUND")
        said = outbound.string_value or MessageToJson(outbound, indent=None) if outbound is not None else ""
        self.group = group_of(node.user_agent_name, said)
        if self.group.kind is Kind.ENVOY and Outbound.of(said) is None:
            known = ", ".join(o.name for o in Outbound if o is not Outbound.LISTENER)
            self.remark = (
                f"its metadata has OUTBOUND {said[:NODE_LIMIT]!r}, none of {known}: it is served as if it had none"
            )

    def begin(self, view: View) -> None:
        """Serve it a view, for as long as it lasts."""
        self.view = view
        kind = self.group.kind if self.group else Kind.ENVOY
        self.machine = (DeltaStream if self.delta else SotwStream)(view.snapshot, kind)

    def close(self) -> None:
        super().close()
        if self.waking is not None:
            self.waking.cancel()
            self.waking = None
