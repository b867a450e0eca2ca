"""`isthmus serve`: run the bridge until a signal ends it; reload when the file changes or on SIGHUP."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path

import structlog

from isthmus.bridge.bridge import Bridge, StartError
from isthmus.bridge.config import Config, load
from isthmus.registry.file.config_watch import appearance, watch_config
from isthmus.registry.settings import ConfigError

log = structlog.get_logger()

SWITCH = 0.001
"""Seconds after which a thread lets another one go on that waits for it."""

CRASHED = 70
"""Exit status after a programming error; EX_SOFTWARE of sysexits.h."""


def tune() -> None:
    """Set up the interpreter of a process that serves, so that nothing holds up its loop for long."""
    # The loop shares it with the threads in which large rebuilds are made, and has to ask for it several times a round.
    sys.setswitchinterval(SWITCH)
    # Modules and their classes stay: to look through them again and again for garbage takes time for nothing.
    gc.freeze()


async def run(path: Path, config: Config) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0, or CRASHED.

    Raises:
        StartError: the bridge cannot start.

    """
    tune()
    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    seen = await asyncio.to_thread(appearance, path)
    bridge = Bridge(config)
    await bridge.start()
    tasks = [
        asyncio.create_task(bridge.failed(), name="pipeline watch"),
        asyncio.create_task(watch_config(path, seen, reload), name="config watch"),
        asyncio.create_task(_reload(path, bridge, reload), name="config reload"),
    ]
    stopped = asyncio.create_task(stop.wait(), name="signal")
    try:
        done, _ = await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
        crash = next((error for task in done if (error := task.exception())), None)
        if crash is None:
            log.info("bridge.stopping")
        else:
            log.critical("bridge.crashed", exc_info=crash)
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        await bridge.stop()
    log.info("bridge.stopped")
    return CRASHED if crash else 0


async def _reload(path: Path, bridge: Bridge, wanted: asyncio.Event) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await bridge.reload(await asyncio.to_thread(load, path))
        except (ConfigError, StartError) as e:
            log.error("bridge.reload_refused", error=str(e))  # noqa: TRY400 - a sentence, no traceback
