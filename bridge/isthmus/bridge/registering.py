"""The HTTP side's `/v1/workloads`: where workloads register that have no registry of their own (docs/workloads.md)."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from isthmus.bridge.registrations import BusyError, OlderError, Registrations, UnknownError
from isthmus.registry.adapter import AdapterError
from isthmus.registry.workloads.record import MAX_BODY, Epoch, RecordError

if TYPE_CHECKING:
    from isthmus.bridge.bridge import Bridge

BODY_WITHIN = 10.0
"""Seconds that a body may take."""

_json = msgspec.json.Encoder(order="deterministic")

Answer = Callable[[Registrations, web.Request], Awaitable[object]]


class _Heartbeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    epoch: Epoch


def add_workloads(app: web.Application, bridge: Bridge) -> None:
    """Add the routes. What is refused is `{"error": sentence}`.

    400 wrongly said, 401 and 403 without the right token, 404 not registered, 408 and 413 too slow and too large, 409 a larger
    epoch is registered, 429 too many, 501 the configuration has no such registry, 503 the store cannot be used.
    """

    def route(answer: Answer, *, writes: bool) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answered(request: web.Request) -> web.Response:
            try:
                if writes:
                    _check_token(request, bridge.config.http.token)
                return _answer(200, await answer(_registrations(bridge), request))
            except _RefusedError as e:
                return _answer(e.status, {"error": str(e)})
            except tuple(_STATUS) as e:
                status = next(status for kind, status in _STATUS.items() if isinstance(e, kind))
                return _answer(status, {"error": str(e)})

        return answered

    app.router.add_get("/v1/workloads", route(_list, writes=False))
    app.router.add_get("/v1/workloads/{id}", route(_get, writes=False))
    app.router.add_put("/v1/workloads/{id}", route(_register, writes=True))
    app.router.add_post("/v1/workloads/{id}/heartbeat", route(_heartbeat, writes=True))
    app.router.add_delete("/v1/workloads/{id}", route(_withdraw, writes=True))


_STATUS: dict[type[Exception], int] = {
    RecordError: 400,
    UnknownError: 404,
    OlderError: 409,
    BusyError: 429,
    AdapterError: 503,
}


class _RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def _list(registrations: Registrations, _: web.Request) -> object:
    return registrations.states()


async def _get(registrations: Registrations, request: web.Request) -> object:
    id_ = request.match_info["id"]
    for state in registrations.states():
        if state.id == id_:
            return state
    raise UnknownError(f"workload {id_[:200]} is not registered")


async def _register(registrations: Registrations, request: web.Request) -> object:
    workload = await registrations.register(request.match_info["id"], await _body(request))
    return {"ttl": workload.ttl}


async def _heartbeat(registrations: Registrations, request: web.Request) -> object:
    try:
        epoch = msgspec.json.decode(await _body(request), type=_Heartbeat).epoch
    except msgspec.MsgspecError:
        raise RecordError('expected {"epoch": N}, with the number of the registration') from None
    workload = await registrations.heartbeat(request.match_info["id"], epoch)
    return {"ttl": workload.ttl}


async def _withdraw(registrations: Registrations, request: web.Request) -> object:
    text = request.query.get("epoch", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        raise RecordError("expected ?epoch=N, with the number of the registration")
    workload = await registrations.withdraw(request.match_info["id"], int(text))
    return {"id": workload.id, "epoch": workload.epoch}


async def _body(request: web.Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    raise _RefusedError(413, f"the body is larger than {MAX_BODY} bytes")
    except TimeoutError:
        raise _RefusedError(408, f"the body was not there within {BODY_WITHIN:g} s") from None
    return bytes(body)


def _registrations(bridge: Bridge) -> Registrations:
    if bridge.registrations is None:
        raise _RefusedError(
            501, "no workload can register here: the configuration has no registry {name: agents, type: workloads}"
        )
    return bridge.registrations


def _check_token(request: web.Request, token: str) -> None:
    if not token:
        return
    scheme, _, said = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not said:
        raise _RefusedError(401, "expected the header Authorization: Bearer, with the token of http.token")
    if not hmac.compare_digest(said.strip().encode(errors="surrogateescape"), token.encode()):
        raise _RefusedError(403, "that is not the token of http.token")


def _answer(status: int, document: object) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return web.Response(status=status, body=_json.encode(document), content_type="application/json", headers=headers)
