"""`isthmus serve`: run the bridge until a signal ends it; reload when the file changes or on SIGHUP."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import structlog
from watchfiles import awatch

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, ConfigError, load

log = structlog.get_logger()


async def run(path: Path, config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        StartError: the bridge cannot start.

    """
    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    bridge = Bridge(config)
    await bridge.start()
    tasks = [
        asyncio.create_task(bridge.failed(), name="pipeline watch"),
        asyncio.create_task(_watch(path, reload), name="config watch"),
        asyncio.create_task(_reload(path, bridge, reload), name="config reload"),
    ]
    stopped = asyncio.create_task(stop.wait(), name="signal")
    try:
        done, _ = await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        log.info("bridge.stopping")
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        await bridge.stop()


async def _watch(path: Path, reload: asyncio.Event) -> None:
    """Watches the folder: editors and configuration tools replace the file rather than write into it."""
    async for changes in awatch(path.parent, recursive=False, step=50, debounce=200):
        if any(Path(changed).name == path.name for _, changed in changes):
            reload.set()


async def _reload(path: Path, bridge: Bridge, wanted: asyncio.Event) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            config = await asyncio.to_thread(load, path)
        except ConfigError as e:
            log.error("bridge.reload_refused", error=str(e))
            continue
        if config != bridge.config:
            await bridge.reload(config)
