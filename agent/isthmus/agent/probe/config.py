"""A probe, by the names that Kubernetes and Istio's WorkloadGroup give its fields. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=86400)]


class HttpHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One header of the request."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
    value: Annotated[str, msgspec.Meta(pattern=r"^[^\r\n\x00]*$")]

    def __repr__(self) -> str:
        return f"HttpHeader(name={self.name!r})"


class HttpGetAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Well when the answer is 200 to 399. Redirections are not followed, and certificates not checked."""

    port: PortNumber
    path: str = "/"
    host: str = "127.0.0.1"
    scheme: Literal["HTTP", "HTTPS", "http", "https"] = "HTTP"
    http_headers: tuple[HttpHeader, ...] = ()

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path {self.path!r}: expected one that begins with /")


class TcpSocketAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Well when a connection can be made."""

    port: PortNumber
    host: str = "127.0.0.1"


class GrpcAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Well when `grpc.health.v1.Health/Check` says SERVING of the service, or of the whole server when none is named."""

    port: PortNumber
    service: str = ""
    host: str = "127.0.0.1"


class ExecAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Well when the command ends with status 0. It is no shell line: the first word is a program."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]

    def __repr__(self) -> str:
        return f"ExecAction(command={self.command[0]!r} …)"  # its arguments may be secret


Action = HttpGetAction | TcpSocketAction | GrpcAction | ExecAction


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One of the four ways to ask, and how often. Times are in seconds.

    Raises:
        ValueError: there is none of `httpGet`, `tcpSocket`, `grpc` and `exec`, or more than one.

    """

    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    grpc: GrpcAction | None = None
    exec: ExecAction | None = None
    initial_delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0
    period_seconds: Seconds = 10
    timeout_seconds: Seconds = 1
    success_threshold: Count = 1
    """Successes in a row after which it is healthy."""
    failure_threshold: Count = 3
    """Failures in a row after which it is unhealthy."""

    def __post_init__(self) -> None:
        if sum(a is not None for a in (self.http_get, self.tcp_socket, self.grpc, self.exec)) != 1:
            raise ValueError("probe: expected one of httpGet, tcpSocket, grpc and exec")

    @property
    def action(self) -> Action:
        """The one way to ask."""
        action = self.http_get or self.tcp_socket or self.grpc or self.exec
        assert action is not None  # noqa: S101 - by __post_init__
        return action
