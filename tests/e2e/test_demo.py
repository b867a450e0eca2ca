"""`isthmus demo` as a person or a script runs it: a process with real peers, which leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from tests import peers
from tests.servers.envoy import LATEST
from tests.servers.peers import peer_binary
from tests.wait import eventually

STEPS = [
    "the registry's services reach Envoy",
    "requests flow to every instance",
    "an added instance gets requests",
    "an unhealthy instance gets none",
    "a recovered instance gets them again",
    "a removed instance gets none",
    "40 changes under load",
    "Envoy refused nothing",
    "no request failed",
]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The directory for temporary files that the demo is given."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


@pytest.fixture
def no_peers(tmp_path: Path) -> Mapping[str, str]:
    """An environment in which neither Envoy nor Consul can be found."""
    return {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}


class Demo:
    """A running `isthmus demo`."""

    def __init__(self, process: asyncio.subprocess.Process, temporary: Path) -> None:
        self.process = process
        self._temporary = temporary

    def left_behind(self) -> list[str]:
        """Processes that work in its temporary directory, and what lies there."""
        return [*_processes_about(self._temporary), *(str(p) for p in self._temporary.rglob("*"))]


@contextlib.asynccontextmanager
async def running(
    temporary: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from isthmus.cli.main import main; main()", "demo"),
        *map(str, arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary)} | dict(environment or {}),
    )
    try:
        yield Demo(process, temporary)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def run(
    temporary: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error, after it has left nothing behind."""
    async with running(temporary, *arguments, environment=environment) as demo:
        out, err = await asyncio.wait_for(demo.process.communicate(), 120)
        if temporary.is_dir():
            assert demo.left_behind() == []
        return demo.process.returncode, out.decode(), err.decode()


def _processes_about(directory: Path) -> Iterator[str]:
    """Command lines that name a path in the directory."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in command:
                yield command


def peers_of(registry: str) -> None:
    peer_binary("envoy", LATEST)
    if registry == "consul":
        peer_binary("consul", peers.CONSUL)


@pytest.mark.parametrize("registry", ["file", "consul"])
async def test_the_story_is_true(registry: str, temporary: Path) -> None:
    """It ends with 0, and its one JSON object on standard output says what happened."""
    peers_of(registry)

    status, out, err = await run(temporary, "--once", "--json", "--registry", registry)

    document = json.loads(out)
    assert [(s["name"], s["ok"]) for s in document["steps"]] == [(name, True) for name in STEPS], err
    assert all(isinstance(s["detail"], str) and s["detail"] for s in document["steps"])
    assert document.keys() == {"ok", "registry", "requests", "failed", "registry_to_ack_ms", "steps"}
    assert (document["ok"], document["registry"], document["failed"], status) == (True, registry, 0, 0)
    assert document["requests"] > 100
    took = document["registry_to_ack_ms"]
    assert took.keys() == {"p50", "p99"}
    assert 0 < took["p50"] <= took["p99"] < 5_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_in_the_middle_leaves_no_process_and_no_file(number: signal.Signals, temporary: Path) -> None:
    peers_of("consul")
    async with running(temporary, "--once", "--registry", "consul") as demo:
        assert demo.process.stdout is not None
        while b"an added instance" not in (line := await asyncio.wait_for(demo.process.stdout.readline(), 60)):
            assert line, "it ended before the story had begun"
        assert len(list(_processes_about(temporary))) >= 2

        demo.process.send_signal(number)

        assert await asyncio.wait_for(demo.process.wait(), 20) == 128 + number
        assert demo.left_behind() == []


async def test_its_programs_die_with_it_even_when_it_is_killed(temporary: Path) -> None:
    peers_of("file")
    async with running(temporary, "--once") as demo:
        assert demo.process.stdout is not None
        while b"reach Envoy" not in (line := await asyncio.wait_for(demo.process.stdout.readline(), 60)):
            assert line, "it ended before the story had begun"
        assert list(_processes_about(temporary))

        demo.process.kill()

        await eventually(lambda: not list(_processes_about(temporary)), "Envoy has gone")


async def test_a_reader_that_goes_away_ends_it_in_order(temporary: Path) -> None:
    """As in `isthmus demo --once | head -1`."""
    peers_of("file")
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from isthmus.cli.main import main; main()", "demo", "--once"),
        stdout=writer,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    os.close(writer)
    await asyncio.to_thread(os.read, reader, 1)
    os.close(reader)

    assert await asyncio.wait_for(process.wait(), 60) == 141
    assert list(temporary.iterdir()) == []


class TestWhatItCannotDo:
    """One sentence on standard error, nothing on standard output, a status that is not 0."""

    async def refused(
        self, temporary: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> str:
        status, out, err = await run(temporary, "--once", "--json", *arguments, environment=environment)
        assert status == 1
        assert out == ""
        assert err.startswith("isthmus: ")
        assert err.count("\n") == 1, err
        return err

    async def test_no_envoy(self, temporary: Path, no_peers: Mapping[str, str]) -> None:
        text = await self.refused(temporary, environment=no_peers)
        assert "there is no envoy on PATH nor in " in text
        assert "make peers" in text

    async def test_no_consul(self, temporary: Path, no_peers: Mapping[str, str]) -> None:
        envoy = peer_binary("envoy", LATEST)
        text = await self.refused(temporary, "--registry", "consul", "--envoy", envoy, environment=no_peers)
        assert "there is no consul on PATH nor in " in text

    async def test_another_program_in_the_place_of_envoy(self, temporary: Path, tmp_path: Path) -> None:
        program = tmp_path / "envoy"
        program.write_text("#!/bin/sh\necho something else\n")
        program.chmod(0o755)
        assert f"{program} is not an Envoy" in await self.refused(temporary, "--envoy", program)
        assert f"{program} is not an Envoy" in await self.refused(
            temporary, environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        )

    async def test_an_envoy_that_is_too_old(self, temporary: Path, tmp_path: Path) -> None:
        program = tmp_path / "envoy"
        program.write_text("#!/bin/sh\necho 'envoy  version: 0123abc/1.29.0/Clean/RELEASE/BoringSSL'\n")
        program.chmod(0o755)
        assert "is Envoy 1.29.0; 1.36 or later is needed" in await self.refused(temporary, "--envoy", program)

    async def test_an_envoy_that_ends_at_once(self, temporary: Path, tmp_path: Path) -> None:
        """It is said in the step that it made impossible, with what the program said last."""
        program = tmp_path / "envoy"
        version = "envoy  version: 0123abc/1.40.0/Clean/RELEASE/BoringSSL"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\necho no more memory; exit 7\n'
        )
        program.chmod(0o755)
        status, out, _ = await run(temporary, "--once", "--json", "--envoy", program)
        first = json.loads(out)["steps"][0]
        assert (status, first["ok"]) == (1, False)
        assert first["detail"] == "Envoy ended with status 7: no more memory"

    async def test_a_port_that_is_taken(self, temporary: Path) -> None:
        peers_of("file")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            text = await self.refused(temporary, "--port", str(port))
        assert f"port {port} of 127.0.0.1 cannot be used: another program listens there" in text

    async def test_a_directory_that_is_not_there(self, temporary: Path) -> None:
        peers_of("file")
        shutil.rmtree(temporary)
        text = await self.refused(temporary)
        assert f"no temporary directory can be made in {temporary}: No such file or directory" in text

    async def test_a_directory_that_cannot_be_written(self, temporary: Path) -> None:
        """Not even by root, for whom file modes mean nothing."""
        peers_of("file")
        text = await self.refused(temporary, "--directory", "/proc")
        assert "no temporary directory can be made in /proc: " in text
