"""The agent's HTTP side: is it ready, how is it doing, and, for this machine alone, make it drain or end."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from isthmus.agent.admin import AdminError
from isthmus.agent.metrics import AgentCollector, ScrapeError, merged, scrape

if TYPE_CHECKING:
    from isthmus.agent.agent import Agent

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def applications(agent: Agent) -> tuple[web.Application, web.Application]:
    """The routes of `statusPort`, and those of `readinessPort`."""
    status = web.Application(middlewares=[_tell_what_there_is])
    readiness = web.Application(middlewares=[_tell_what_there_is])
    for app in (status, readiness):
        app.router.add_get("/healthz/ready", _ready(agent))
    status.router.add_get("/status", _status(agent))
    status.router.add_get("/stats/prometheus", _metrics(agent))
    status.router.add_get("/app-health/{service}", _app_health(agent))
    status.router.add_post("/drain", _local(agent.drain, "it drains: callers are asked to go elsewhere"))
    status.router.add_post("/quitquitquit", _local(agent.quit, "it drains and ends"))
    return status, readiness


def _ready(agent: Agent) -> _Handler:
    async def ready(_: web.Request) -> web.Response:
        missing = await agent.missing()
        text = "ready\n" if not missing else "".join(f"{reason}\n" for reason in missing)
        return web.Response(status=503 if missing else 200, text=text)

    return ready


def _status(agent: Agent) -> _Handler:
    async def status(request: web.Request) -> web.Response:
        document = await agent.status(with_upstreams="upstreams" in request.query)
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    return status


def _metrics(agent: Agent) -> _Handler:
    async def metrics(_: web.Request) -> web.Response:
        own = CollectorRegistry()
        own.register(AgentCollector(await agent.status(), agent.version))
        pages = [generate_latest(own).decode(), generate_latest(agent.registry).decode()]
        try:
            pages.append((await agent.proxy.admin.get("/stats/prometheus?usedonly")).decode(errors="replace"))
        except AdminError as e:
            pages.append(f"# {e}\n")
        urls = {s.name: s.metrics for s in agent.config.services if s.metrics}
        said = await asyncio.gather(*(scrape(url) for url in urls.values()), return_exceptions=True)
        texts: dict[str, str] = {}
        for service, page in zip(urls, said, strict=True):
            if isinstance(page, BaseException) and not isinstance(page, ScrapeError):
                raise page
            if isinstance(page, str):
                texts[service] = page
        return web.Response(body=merged(pages, texts).encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return metrics


def _app_health(agent: Agent) -> _Handler:
    async def app_health(request: web.Request) -> web.Response:
        service = next((s for s in agent.services() if s.service == request.match_info["service"]), None)
        if service is None:
            names = ", ".join(sorted(s.service for s in agent.services())) or "none"
            return web.Response(status=404, text=f"no such service here; there are {names}\n")
        return web.Response(status=200 if service.healthy else 503, text=f"{service.why}\n")

    return app_health


def _local(do: Callable[[], Awaitable[None]], text: str) -> _Handler:
    """What only a program of this machine may ask for: one whose address is that which it asks at, or loopback."""

    async def handle(request: web.Request) -> web.Response:
        peer = request.transport.get_extra_info("peername") if request.transport else None
        own = request.transport.get_extra_info("sockname") if request.transport else None
        if not (peer and own and (peer[0] == own[0] or ipaddress.ip_address(peer[0]).is_loopback)):
            return web.Response(status=403, text="only from this machine itself\n")
        await do()
        return web.Response(text=f"{text}\n")

    return handle


@web.middleware
async def _tell_what_there_is(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        if request.match_info.http_exception is None:
            raise
        paths = sorted(r.canonical for r in request.app.router.resources())
        return web.Response(status=404, text=f"no {request.path} here; there are {', '.join(paths)}\n")
