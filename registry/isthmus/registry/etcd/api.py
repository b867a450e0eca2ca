"""etcd over gRPC: one member at a time, by the public messages of its v3 API. The only place here that imports grpc."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.etcd.proto import rpc_pb2 as rpc

GOODBYE = 0.005
"""Seconds in which gRPC's core has noticed that a call was cancelled."""

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one answer or watch message."""

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # etcd ends connections that ping more often than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A connection of our own, that no proxy of the environment and no other channel has a part in.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.primary_user_agent", "isthmus"),
)

HAS_LEADER = ("hasleader", "true")
"""A member that has no leader refuses rather than to answer with what it knew, or to fall silent."""


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


A = TypeVar("A")


class RefusedError(AdapterError):
    """The member answered, and asking another one will not help: who we are, or what we ask for, is wrong."""


class NoSuchLeaseError(AdapterError):
    """The lease that a key was to be written with has ended."""


class CompactedError(AdapterError):
    """What was asked for is from a revision that etcd no longer has."""


class TooLargeError(AdapterError):
    """The answer would be larger than MAX_MESSAGE."""


class Member:
    """One member of the cluster. Everything here raises AdapterError when there is no usable answer.

    Needs a running event loop from its construction on; `close()` it in the end.
    """

    def __init__(self, config: EtcdConfig, endpoint: str, stats: ReadStats) -> None:
        self.endpoint = endpoint
        self._config = config
        self._stats = stats
        self._channel = _channel(config, endpoint)
        self._token = ""

    async def close(self) -> None:
        await self._channel.close()

    async def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        """`KV.Range`, linearizable: what all of the cluster has agreed on."""
        return await self._as_who_we_are("/etcdserverpb.KV/Range", request, rpc.RangeResponse.FromString)

    async def transaction(self, request: rpc.TxnRequest) -> rpc.TxnResponse:
        """`KV.Txn`: compare, and then write one or the other."""
        return await self._as_who_we_are("/etcdserverpb.KV/Txn", request, rpc.TxnResponse.FromString)

    async def grant(self, request: rpc.LeaseGrantRequest) -> rpc.LeaseGrantResponse:
        """`Lease.LeaseGrant`."""
        return await self._as_who_we_are("/etcdserverpb.Lease/LeaseGrant", request, rpc.LeaseGrantResponse.FromString)

    async def keep_alive(self, request: rpc.LeaseKeepAliveRequest) -> rpc.LeaseKeepAliveResponse:
        """`Lease.LeaseKeepAlive`, once: one message on a stream of requests is a unary call. A TTL of 0: no such lease."""
        method = "/etcdserverpb.Lease/LeaseKeepAlive"
        return await self._as_who_we_are(method, request, rpc.LeaseKeepAliveResponse.FromString)

    async def revoke(self, request: rpc.LeaseRevokeRequest) -> rpc.LeaseRevokeResponse:
        """`Lease.LeaseRevoke`, with all keys of the lease."""
        return await self._as_who_we_are("/etcdserverpb.Lease/LeaseRevoke", request, rpc.LeaseRevokeResponse.FromString)

    async def sign_in(self) -> None:
        """Get a token, when there is a user and etcd has authentication on."""
        self._token = ""
        if not self._config.user:
            return
        request = rpc.AuthenticateRequest(name=self._config.user, password=self._config.password)
        try:
            answer = await self._unary("/etcdserverpb.Auth/Authenticate", request, rpc.AuthenticateResponse.FromString)
        except _NoAuthenticationError:
            return
        except _SignInError as e:
            raise RefusedError(str(e)) from None
        self._stats.read()
        self._token = answer.token

    def watch(self) -> Watch:
        """`Watch.Watch`: one stream of its own."""
        return Watch(self._channel, self._metadata(), self._failure, self._config.answer_within)

    def canceled(self, message: rpc.WatchResponse) -> AdapterError:
        """Why a watch was ended by the member."""
        reason = message.cancel_reason
        if message.compact_revision:
            reason = f"{reason}: the required revision has been compacted, at {message.compact_revision}"
        return self._failure(METHOD, grpc.StatusCode.CANCELLED, reason or "no reason was given")

    async def _as_who_we_are(self, method: str, request: _Message, decode: Callable[[bytes], A]) -> A:
        """With the token there is, or else a new one."""
        try:
            answer = await self._unary(method, request, decode)
        except _SignInError:
            await self.sign_in()
            try:
                answer = await self._unary(method, request, decode)
            except _SignInError as e:
                raise RefusedError(str(e)) from None
        self._stats.read()
        return answer

    async def _unary(self, method: str, request: _Message, decode: Callable[[bytes], A]) -> A:
        call: grpc.aio.UnaryUnaryMultiCallable[_Message, A] = self._channel.unary_unary(
            method, request_serializer=_encode, response_deserializer=decode
        )
        try:
            return await call(request, timeout=self._config.answer_within, metadata=self._metadata())
        except grpc.aio.AioRpcError as e:
            self._stats.failed()
            raise self._failure(method, e.code(), e.details() or "") from None

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (HAS_LEADER, ("token", self._token)) if self._token else (HAS_LEADER,)

    def _failure(self, method: str, code: grpc.StatusCode, details: str) -> AdapterError:
        """What a status means. The texts are etcd's own (api/v3rpc/rpctypes/error.go)."""
        said = " ".join(details[:300].split())
        text = f"etcd at {self.endpoint}: {method.rpartition('/')[2]}: {code.name.lower()}: {said}"
        status = grpc.StatusCode
        if "has been compacted" in said:
            return CompactedError(text)
        if code is status.RESOURCE_EXHAUSTED and "larger than max" in said:
            return TooLargeError(text)
        if "requested lease not found" in said:
            return NoSuchLeaseError(text)
        if "authentication is not enabled" in said:
            return _NoAuthenticationError(text)
        if code is status.UNAUTHENTICATED or "invalid auth token" in said or "revision of auth store is old" in said:
            return _SignInError(text)
        if "user name is empty" in said:
            return RefusedError(f"{text} (etcd has authentication on: set user and password, or a client certificate)")
        if code is status.PERMISSION_DENIED or "permission denied" in said:
            who = f"user {self._config.user}" if self._config.user else "this client"
            needed = "read" if method in ("/etcdserverpb.KV/Range", METHOD) else "read and write"
            return RefusedError(f"{text} ({who} needs a role with {needed} permission on every prefix)")
        if code in (status.INVALID_ARGUMENT, status.UNIMPLEMENTED, status.FAILED_PRECONDITION):
            return RefusedError(text)
        if code is status.DEADLINE_EXCEEDED:
            return AdapterError(
                f"etcd at {self.endpoint}: {method.rpartition('/')[2]}: no answer within {self._config.answer_within:g} s"
            )
        return AdapterError(text)


class _SignInError(AdapterError):
    """The token is unknown, or older than the users and roles are."""


class _NoAuthenticationError(AdapterError):
    """A token was asked for, and there is no need of one."""


WatchCall = grpc.aio.StreamStreamCall[rpc.WatchRequest, rpc.WatchResponse]
METHOD = "/etcdserverpb.Watch/Watch"


class Watch:
    """One watch stream. Everything raises AdapterError when the stream has ended."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        failure: Callable[[str, grpc.StatusCode, str], AdapterError],
        within: float,
    ) -> None:
        stream: grpc.aio.StreamStreamMultiCallable[rpc.WatchRequest, rpc.WatchResponse] = channel.stream_stream(
            METHOD, request_serializer=_encode, response_deserializer=rpc.WatchResponse.FromString
        )
        self._call: WatchCall = stream(metadata=metadata)
        self._failure = failure
        self._within = within
        self._read: asyncio.Task[object] | None = None

    async def create(self, requests: Iterable[rpc.WatchCreateRequest]) -> None:
        """Ask for these ranges; each is answered by a message with `created`."""
        for request in requests:
            await self._write(rpc.WatchRequest(create_request=request))

    async def ask_progress(self) -> None:
        """Ask for a message, whatever it says."""
        await self._write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))

    def reading(self) -> asyncio.Task[object]:
        """The read that is under way, to be waited for. It must not be cancelled: gRPC would end the stream."""
        if self._read is None:
            self._read = asyncio.ensure_future(_read(self._call))
        return self._read

    async def take(self) -> rpc.WatchResponse:
        """The message of the read that is done."""
        reading, self._read = self.reading(), None
        try:
            message = await reading
        except grpc.aio.AioRpcError as e:
            raise self._failure(METHOD, e.code(), e.details() or "") from None
        if isinstance(message, rpc.WatchResponse):
            return message
        raise self._failure(METHOD, await self._call.code(), await self._call.details() or "the stream ended")

    async def close(self) -> None:
        """End the stream, and wait for the tasks that gRPC has of its own for it: its core takes a moment to notice."""
        if self._call.done():
            if self._read is not None:
                await asyncio.gather(
                    self._read, return_exceptions=True
                )  # it may have failed since anybody waited for it
            return
        self._call.cancel()
        await asyncio.gather(self.reading(), return_exceptions=True)
        await asyncio.sleep(GOODBYE)

    async def _write(self, request: rpc.WatchRequest) -> None:
        try:
            async with asyncio.timeout(self._within):
                await self._call.write(request)
        except grpc.aio.AioRpcError as e:
            raise self._failure(METHOD, e.code(), e.details() or "") from None
        except (TimeoutError, asyncio.InvalidStateError):
            raise self._failure(METHOD, grpc.StatusCode.UNAVAILABLE, "nothing can be written to the stream") from None


async def _read(call: WatchCall) -> object:
    """The next message, or `grpc.aio.EOF`."""
    return await call.read()


def _encode(message: _Message) -> bytes:
    return message.SerializeToString()


def _channel(config: EtcdConfig, endpoint: str) -> grpc.aio.Channel:
    target = urlsplit(endpoint).netloc
    options = list(OPTIONS)
    if not config.secure:
        return grpc.aio.insecure_channel(target, options=options)
    if config.tls_server_name:
        options.append(("grpc.ssl_target_name_override", config.tls_server_name))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_pem(endpoint, "ca_file", config.ca_file),
        private_key=_pem(endpoint, "key_file", config.key_file),
        certificate_chain=_pem(endpoint, "cert_file", config.cert_file),
    )
    return grpc.aio.secure_channel(target, credentials, options=options)


def _pem(endpoint: str, option: str, path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as e:
        raise AdapterError(f"etcd at {endpoint}: {option} {path}: {e.strerror}") from e
