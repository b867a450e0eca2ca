"""`isthmus demo service`: one of Bookinfo's services, for containers, jobs and machines that try the mesh."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Annotated, Literal

from cyclopts import Parameter

from isthmus.cli import address
from isthmus.cli.command import command
from isthmus.cli.demo.bookinfo import Instance, Mesh
from isthmus.cli.output import CommandError, note


def service(
    name: Literal["productpage", "details", "reviews", "ratings"],
    *,
    service_version: Literal["v1", "v2", "v3"] = "v1",
    listen: str = "127.0.0.1:9080",
    via: str | None = None,
    instance: Annotated[str | None, Parameter(name="--id")] = None,
) -> None:
    """Run one of Bookinfo's services: productpage asks details and reviews, reviews v2 and v3 ask ratings.

    Every answer is JSON and names the instances that gave it. GET /health says whether it is well; SIGUSR1 changes that. SIGTERM
    ends it.

    Examples:
        isthmus demo service details

        isthmus demo service reviews --service-version v2 --listen 127.0.0.1:9081 --via 127.0.0.1:15001

    Args:
        name: Which service.
        service_version: Its version; only that of reviews makes a difference.
        listen: Where it listens.
        via: The proxy's outbound listener through which it calls the others; by default it calls them by name.
        instance: How its answers call it; by default the name of this machine or container.

    """
    host, port = address.split("--listen", listen)
    if via is not None:
        address.split("--via", via)
    try:
        asyncio.run(_run(name, service_version, (host, port), via, instance or socket.gethostname()))
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno and e.errno > 0 else str(e)
        raise CommandError(f"--listen {listen}: {reason}") from None


async def _run(name: str, version: str, listen: tuple[str, int], via: str | None, id_: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    mesh = Mesh(via)
    instance = Instance(name, version, id_, mesh)

    def change_health() -> None:
        instance.is_unwell = not instance.is_unwell
        note(f"{id_} says that it is {'not ' if instance.is_unwell else ''}well")

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, change_health)
    try:
        await instance.start(*listen)
        note(f"{name} {version} listens on {listen[0]}:{listen[1]} as {id_}")
        await stop.wait()
    finally:
        await instance.stop()
        await mesh.close()


app = command(service)
