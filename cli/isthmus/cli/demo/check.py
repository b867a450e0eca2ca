"""`isthmus demo check`: whether a running Bookinfo answers through the mesh, whole and from every version."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from isthmus.cli import address
from isthmus.cli.command import command
from isthmus.cli.demo.bookinfo import BookinfoError, Mesh
from isthmus.cli.output import CommandError

_PAUSE = 0.2
"""Seconds between two attempts."""


def check(
    *,
    via: str = "127.0.0.1:8080",
    timeout: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
    pages: Annotated[int, Parameter(validator=Number(gte=1))] = 30,
) -> None:
    """Ask a running Bookinfo for pages through a proxy: every page whole, and reviews from every version.

    First it waits until all three versions of reviews have answered; from then on no page may fail.

    Examples:
        isthmus demo check

        docker compose run --rm self-test

    Args:
        via: The proxy's listener: a gateway's, or a sidecar's outbound one.
        timeout: Seconds to wait for the whole.
        pages: How many pages must then come without one that fails.

    """
    address.split("--via", via)
    asyncio.run(_check(via, timeout, pages))


class _Reviews(msgspec.Struct):
    version: str


class _Page(msgspec.Struct):
    reviews: _Reviews


async def _check(via: str, timeout: float, pages: int) -> None:
    mesh = Mesh(via)
    try:
        seen = await _wait(mesh, time.monotonic() + timeout)
        for number in range(1, pages + 1):
            try:
                seen |= _instances(await mesh.call("productpage", "/"))
            except BookinfoError as e:
                raise CommandError(f"page {number} of {pages} failed: {e}") from None
    finally:
        await mesh.close()
    sys.stdout.write(f"{pages} pages through {via}, all whole; answered: {', '.join(sorted(seen))}\n")


async def _wait(mesh: Mesh, deadline: float) -> set[str]:
    versions: set[str] = set()
    seen: set[str] = set()
    last = "no answer yet"
    while versions != {"v1", "v2", "v3"}:
        if time.monotonic() > deadline:
            raise CommandError(f"reviews answered in {', '.join(sorted(versions)) or 'no version'}; the last: {last}")
        try:
            page = await mesh.call("productpage", "/")
            version = msgspec.convert(page, _Page).reviews.version
            versions.add(version)
            seen |= _instances(page)
            last = f"a page with reviews {version}"
        except (BookinfoError, msgspec.ValidationError) as e:
            last = str(e)
            await asyncio.sleep(_PAUSE)
    return seen


def _instances(answer: Any) -> set[str]:
    """The instances that a page came from."""
    if not isinstance(answer, dict):
        return set()
    own = {str(answer["instance"])} if "instance" in answer else set()
    return own.union(*(_instances(part) for part in answer.values()))


app = command(check)
