"""What goes into a thread, and what becomes of its outcome."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from isthmus.registry.thread import LARGE, in_thread, is_large
from tests.wait import eventually
from tests.world import mk_instance, mk_key, mk_service

FEW = {mk_key("few"): mk_service("few", [mk_instance(1)])}
MANY = FEW | {mk_key("many"): mk_service("many", [mk_instance(n) for n in range(LARGE)])}


def test_what_is_large_depends_on_the_instances_of_what_changed() -> None:
    assert is_large(None, MANY)
    assert is_large(frozenset({mk_key("many")}), FEW, MANY)
    assert is_large(frozenset({mk_key("many")}), MANY, FEW), "also when they are gone"
    assert not is_large(frozenset({mk_key("few")}), MANY)
    assert not is_large(None, FEW)
    assert is_large(frozenset(mk_key(f"gone{n}") for n in range(LARGE)), FEW)


async def test_others_go_on_until_the_outcome_is_there() -> None:
    held = threading.Event()
    task = asyncio.create_task(in_thread(held.wait, 30.0))
    await asyncio.sleep(0)
    assert not task.done()

    held.set()

    assert await task is True


async def test_an_error_is_raised_where_the_outcome_is_waited_for() -> None:
    def work() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        await in_thread(work)


async def test_who_is_cancelled_leaves_the_thread_to_itself() -> None:
    held, ended = threading.Event(), threading.Event()

    def work() -> None:
        held.wait(30.0)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    held.set()
    await eventually(ended.is_set, "it has come to its end")


def test_the_process_does_not_wait_for_an_outcome_that_nobody_wants() -> None:
    program = """
import asyncio, threading
from isthmus.registry.thread import in_thread

async def main():
    begun = threading.Event()
    def work():
        begun.set()
        threading.Event().wait()
    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=30, capture_output=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")
