"""The replica feed: Eureka's servers take the bridge for one of them, and send it each change half a second later.

A server that has `http://BRIDGE:8762/eureka/` among its `eureka.client.service-url` posts batches of what its own clients did to
`peerreplication/batch/`. Nothing but replication is answered: a client that would register here is sent on to a real server.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web

from isthmus.registry.eureka.answers import parse_bare_instance, parse_instance
from isthmus.registry.eureka.config import FeedConfig
from isthmus.registry.eureka.replication import (
    CANCEL,
    DELETE_STATUS_OVERRIDE,
    HEARTBEAT,
    REGISTER,
    STATUS_UPDATE,
    Change,
    mk_change,
    parse_batch,
)

log = structlog.get_logger()

MAX_BODY = 16 * 1024 * 1024
"""Bytes of one request, unpacked; a server puts at most 250 changes into one, of about 1 KB each."""

BODY_TIMEOUT = 10.0
"""Seconds for the body of one request."""

Hear = Callable[[Change], int]
"""Takes a change, returns the HTTP status that answers it: 200, 404 when the whole instance is needed, 503 for later."""


class Feed:
    """A server for replication. `start()` it, and `close()` it in the end.

    `refused` is called with the address of a sender that has not the right password.
    """

    def __init__(self, config: FeedConfig, hear: Hear, refused: Callable[[str], None]) -> None:
        self._config = config
        self._hear = hear
        self._refused = refused
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.

        """
        app = web.Application(client_max_size=MAX_BODY)
        base = "/{base:eureka(?:/v2)?}"
        for slash in ("", "/"):
            app.router.add_post(f"{base}/peerreplication/batch{slash}", self._batch)
        app.router.add_post(base + "/apps/{app}", self._register)
        app.router.add_put(base + "/apps/{app}/{id}", self._heartbeat)
        app.router.add_delete(base + "/apps/{app}/{id}", self._cancel)
        app.router.add_put(base + "/apps/{app}/{id}/status", self._status)
        app.router.add_delete(base + "/apps/{app}/{id}/status", self._delete_status)
        app.router.add_route("*", "/{path:.*}", self._anything_else)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        host, port = self._config.address
        await web.TCPSite(self._runner, host, port).start()

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _batch(self, request: web.Request) -> web.Response:
        self._admit(request)
        try:
            changes = parse_batch(await _body(request))
        except msgspec.DecodeError as e:
            raise web.HTTPBadRequest(text=f"not a list of replications: {e}") from e
        statuses = [400 if isinstance(change, str) else self._hear(change) for change in changes]
        if bad := [change for change in changes if isinstance(change, str)]:
            log.warning("eureka.feed_refused", sender=request.remote, refused=len(bad), of=len(changes), first=bad[0])
        return web.json_response({"responseList": [{"statusCode": status} for status in statuses]})

    async def _register(self, request: web.Request) -> web.Response:
        self._admit_replica(request)
        body, app = await _body(request), request.match_info["app"]
        try:
            entry = parse_instance(body, app) if b'"instance"' in body[:64] else parse_bare_instance(body, app)
            change = mk_change(REGISTER, app, entry.record.id, entry.record.dirty, entry=entry)
        except msgspec.DecodeError as e:
            raise web.HTTPBadRequest(text=f"not an instance: {e}") from e
        return _answer(self._hear(change), 204)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        return self._one(request, HEARTBEAT, "")

    async def _cancel(self, request: web.Request) -> web.Response:
        return self._one(request, CANCEL, "")

    async def _status(self, request: web.Request) -> web.Response:
        return self._one(request, STATUS_UPDATE, request.query.get("value", ""))

    async def _delete_status(self, request: web.Request) -> web.Response:
        return self._one(request, DELETE_STATUS_OVERRIDE, request.query.get("value", ""))

    def _one(self, request: web.Request, action: str, status: str) -> web.Response:
        self._admit_replica(request)
        dirty = request.query.get("lastDirtyTimestamp", "")
        try:
            change = mk_change(
                action,
                request.match_info["app"],
                request.match_info["id"],
                int(dirty) if dirty.isascii() and dirty.isdigit() and len(dirty) < 19 else 0,
                status=status,
            )
        except msgspec.DecodeError as e:
            raise web.HTTPBadRequest(text=str(e)) from e
        return _answer(self._hear(change), 200)

    async def _anything_else(self, request: web.Request) -> web.Response:
        self._admit(request)
        raise _not_a_server()

    def _admit_replica(self, request: web.Request) -> None:
        """Other servers mark what they pass on; clients, and servers as clients of each other, do not."""
        self._admit(request)
        if request.headers.get("x-netflix-discovery-replication", "").lower() != "true":
            raise _not_a_server()

    def _admit(self, request: web.Request) -> None:
        if not self._config.password:
            return
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        try:
            said = base64.b64decode(credentials, validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            said = b""
        if not hmac.compare_digest(said, f"{self._config.user}:{self._config.password}".encode()):
            self._refused(request.remote or "")
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="eureka"'})


def _not_a_server() -> web.HTTPException:
    # Eureka's clients take 503 as a reason to ask the next server of their list.
    return web.HTTPServiceUnavailable(text="this takes replications from Eureka's servers and is none itself\n")


async def _body(request: web.Request) -> bytes:
    if "json" not in request.content_type:
        raise web.HTTPUnsupportedMediaType(text=f"JSON is expected, not {request.content_type[:80]}\n")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as e:
        raise web.HTTPRequestTimeout(text="the body did not come\n") from e


def _answer(status: int, good: int) -> web.Response:
    return web.Response(status=good if status == 200 else status)
