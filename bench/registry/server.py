"""`python -m bench.registry.server KIND SIZE [FEED]`: one scripted registry in a process of its own, told what to do by lines.

`{"put": [state, ...]}` changes instances, `{"count": true}` says what has been asked of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from bench.registry.consul import ScriptedConsul
from bench.registry.eureka import ScriptedEureka
from bench.registry.lines import commands, reply
from bench.registry.nomad import ScriptedNomad
from bench.registry.population import Fleet, State
from bench.registry.web import Request, Web


class _Scripted(Protocol):
    def put(self, state: State) -> None: ...

    def handle(self, request: Request) -> None: ...


KINDS: dict[str, Callable[..., _Scripted]] = {
    "consul": ScriptedConsul,
    "eureka": ScriptedEureka,
    "nomad": ScriptedNomad,
}


async def main(kind: str, size: int, options: list[str]) -> None:
    """Serve until there are no more commands."""
    registry = KINDS[kind](Fleet(size), *options)
    web = Web(registry.handle)
    gc.freeze()  # what is there stays: looking through it again and again would be heard as the server's delay
    reply(port=await web.start())
    replicating = asyncio.ensure_future(registry.replicate()) if isinstance(registry, ScriptedEureka) else None
    async for command in commands():
        match command:
            case {"put": states}:
                at = time.monotonic()
                for state in msgspec.convert(states, list[State]):
                    registry.put(state)
                reply(at=at)
            case _:
                reply(requests=web.requests, most_connections=web.most_connections)
    await web.close()
    if replicating is not None:
        replicating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await replicating


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
