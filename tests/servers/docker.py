"""A Docker daemon of a test's own: in a network of its own, with images that are made here, for nothing can be pulled."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests import peers
from tests.servers.netns import Machine, network
from tests.servers.peers import peer_binary
from tests.servers.process import Process
from tests.wait import eventually

ROOT = Path(__file__).resolve().parents[2]
BASE = "isthmus-test/debian:bookworm"
"""The image that a Debian tree of ours became; what the Dockerfile's BASE is set to."""

SOURCES = (
    "agent",
    "bridge",
    "cli",
    "compose",
    "registry",
    "xds",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
)
"""What images are built from, besides the wheels of what Isthmus depends on."""


class Docker:
    """A daemon, and the `docker` and `docker compose` commands that speak to it."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.directory = directory
        self._programs = peer_binary("debian", "docker").parent
        self._compose = peer_binary("compose", peers.COMPOSE)
        peer_binary("debian", "base")
        self._socket = directory / "docker.sock"
        # What runs in its containers ends with it: they are in a process namespace that ends with its first process.
        own = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
        places = (f"--data-root={directory}/data", f"--exec-root={directory}/run", f"--pidfile={directory}/docker.pid")
        argv = machine.command(*own, self._programs / "dockerd", *places, f"--host=unix://{self._socket}")
        self._daemon = Process(argv, directory / "docker.log")
        path = f"{self._programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self._env = {**os.environ, "PATH": path, "DOCKER_HOST": f"unix://{self._socket}", "DOCKER_BUILDKIT": "0"}

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._daemon.start()

        def answers() -> bool:
            assert self._daemon.running, self._daemon.output()[-2000:]
            return (
                subprocess.run(
                    [self._programs / "docker", "version"], env=self._env, capture_output=True, check=False
                ).returncode
                == 0
            )

        await eventually(answers, "the Docker daemon answers", 60, every=0.2)

    def stop(self) -> None:
        """End it and all containers."""
        self._daemon.stop(20)
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def docker(self, *words: str | Path, timeout: float = 300) -> str:
        """What `docker` prints. Raises AssertionError when it fails, with what it said."""
        return self._run([self._programs / "docker", *words], {}, timeout)

    def compose(self, *words: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 300) -> str:
        """What `docker compose` prints, run in the folder `compose` of the sources."""
        return self._run([self._compose, *words], environment or {}, timeout)

    def import_base(self) -> None:
        """Make the base image."""
        with subprocess.Popen([peer_binary("debian", "base")], stdout=subprocess.PIPE) as tar:
            done = subprocess.run(
                [self._programs / "docker", "import", "-", BASE],
                stdin=tar.stdout,
                env=self._env,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr

    def image_of(self, name: str, program: Path, at: str, *entrypoint: str) -> None:
        """Make an image of a program or a folder, under the name of the one that cannot be pulled."""
        context = self.directory / "program"
        context.mkdir()
        try:
            if program.is_dir():
                shutil.copytree(program, context / "program", symlinks=True)
            else:
                shutil.copy(program.resolve(), context / "program")
            lines = [f"FROM {BASE}", f"COPY program {at}"]
            if entrypoint:
                lines.append(f"ENTRYPOINT {json.dumps(entrypoint)}")
            (context / "Dockerfile").write_text("\n".join(lines))
            self.docker("build", "--quiet", "--tag", name, context)
        finally:
            shutil.rmtree(context)

    def build(self, target: str, tag: str, sources: Path) -> None:
        """Build an image of ours from `compose/Dockerfile`, without a package index."""
        arguments = {"BASE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/src/wheels"}
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        self.docker(
            "build",
            "--quiet",
            "--file",
            sources / "compose" / "Dockerfile",
            "--target",
            target,
            "--tag",
            tag,
            *words,
            sources,
            timeout=600,
        )

    def _run(self, argv: list[str | Path], environment: Mapping[str, str], timeout: float) -> str:
        done = subprocess.run(
            [str(word) for word in argv],
            env={**self._env, **environment},
            cwd=self.directory / "sources" / "compose" if (self.directory / "sources").exists() else self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        words = " ".join(str(word) for word in argv[1:6])
        assert done.returncode == 0, f"{Path(argv[0]).name} {words}: {done.stdout[-1500:]}{done.stderr[-3000:]}"
        return done.stdout

    @property
    def sources(self) -> Path:
        """A copy of what images are built from, with the wheels."""
        sources = self.directory / "sources"
        if not sources.exists():
            sources.mkdir()
            for name in SOURCES:
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, sources / name)
            shutil.copy(ROOT / ".dockerignore", sources)
            fetch_wheels(sources / "wheels")
        return sources


def fetch_wheels(into: Path) -> None:
    """Everything that building and installing Isthmus takes, as wheels for the Python of the base image."""
    uv = Path(sys.executable).with_name("uv")
    locked = subprocess.run(
        [uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())
    into.mkdir()
    wanted = into / "requirements.txt"
    wanted.write_text("\n".join([locked, *project["build-system"]["requires"]]))
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    done = subprocess.run(
        [*fetch, "--python-version=3.11", "--dest", into, "--requirement", wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wanted.unlink()


@contextlib.contextmanager
def docker_machine(directory: Path) -> Iterator[Docker]:
    """A daemon that is yet to be started, on a machine of its own."""
    with network("docker") as (machine,):
        docker = Docker(machine, directory)
        try:
            yield docker
        finally:
            docker.stop()
