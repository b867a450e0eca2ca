"""Installing the real servers that tests run: whole or not at all, once, and with a reason when it cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import peers
from tests.peers.install import BUILT

ROOT = Path(__file__).resolve().parents[2]

GO_THAT_BUILDS = """#!/bin/sh
echo "go: downloading example.com/module v1.0.0" >&2
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\necho built\\n' > "$2"
chmod +x "$2"
echo called >> "$(dirname "$0")/calls"
"""
GO_THAT_FAILS = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo half > "$2"
echo "consul.go:1: no such luck" >&2
exit 1
"""


class World:
    """A cache that holds every Envoy, Eureka and gRPC client, and a PATH on which `go` is what the test says."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        self.path = directory / "bin"
        self.path.mkdir()
        for peer, program in peers.BINARIES.items():
            if peer.startswith(("envoy-", "eureka-", "grpc-js-", "debian-")):
                self.script(self.cache / "isthmus" / "peers" / peer / program, "#!/bin/sh\n")

    def script(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def install(self, *names: str, required: str = "") -> tuple[int, str]:
        """`python -m tests.peers`: its exit status and what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.peers", *names],
            cwd=ROOT,
            env={"XDG_CACHE_HOME": str(self.cache), "PATH": f"{self.path}:/usr/bin:/bin", "ISTHMUS_PEERS": required},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout

    @property
    def consul(self) -> Path:
        return self.cache / "isthmus" / "peers" / f"consul-{peers.CONSUL}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_built_once(world: World) -> None:
    """What is built is in the cache; the next run finds it, and has nothing to say."""
    world.script(world.path / "go", GO_THAT_BUILDS)

    assert world.install()[0] == 0
    assert subprocess.run([world.consul / "consul"], capture_output=True, check=True).stdout == b"built\n"

    assert world.install() == (0, "")
    assert (world.path / "calls").read_text() == "called\n" * len(BUILT)


def test_a_failed_build_leaves_nothing(world: World) -> None:
    """The last lines of the build are shown, and the cache holds no half of a program."""
    world.script(world.path / "go", GO_THAT_FAILS)

    status, said = world.install(f"consul-{peers.CONSUL}")

    assert status == 1
    assert "no such luck" in said
    assert not list(world.cache.rglob("consul"))


def test_a_program_that_does_not_run_is_not_installed(world: World) -> None:
    """Built for another machine, say."""
    world.script(world.path / "go", GO_THAT_BUILDS.replace("echo built", "exit 126"))

    status, said = world.install(f"consul-{peers.CONSUL}")

    assert status == 1
    assert "ended with status 126" in said
    assert not world.consul.exists()


@pytest.mark.parametrize(("required", "expected"), [("", 0), ("required", 1)])
def test_what_cannot_be_had_is_named(world: World, required: str, expected: int) -> None:
    """A machine without a Go that works goes on without Consul, unless all peers are required."""
    world.script(world.path / "go", GO_THAT_FAILS)

    status, said = world.install(required=required)

    assert status == expected
    assert f"consul-{peers.CONSUL}: not available" in said
    assert (f"tests that need {' or '.join(BUILT)} will be skipped" in said) is not bool(expected)


def test_wrong_words_are_refused(world: World) -> None:
    """A slip must not mean "all of them", or "not required"."""
    assert world.install("envoy-9") == (2, f"There is no peer envoy-9; there are {', '.join(peers.BINARIES)}\n")
    assert world.install(required="yes") == (2, "ISTHMUS_PEERS is 'yes'; it may be 'required' or unset\n")


def test_a_cache_that_cannot_be_written(world: World) -> None:
    world.cache.joinpath("isthmus", "peers").rename(world.cache / "elsewhere")
    world.cache.joinpath("isthmus", "peers").write_text("in the way")

    status, said = world.install()

    assert status == 1
    assert "cannot be written" in said
    assert "XDG_CACHE_HOME" in said
