"""`isthmus serve` as a process, and the commands that ask it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from isthmus.registry.document import parse_document
from tests.feature.client import CDS, Client, Refused
from tests.feature.conftest import write_service
from tests.servers.process import Process, free_port
from tests.wait import eventually

ISTHMUS = Path(sys.executable).parent / "isthmus"


class Serve(Process):
    """A bridge in a process of its own, whose configuration and services are in one directory."""

    def __init__(self, directory: Path, *words: str) -> None:
        self.directory = directory
        self.file = directory / "isthmus.yaml"
        self.xds = f"127.0.0.1:{free_port()}"
        self.http = f"127.0.0.1:{free_port()}"
        super().__init__([ISTHMUS, "serve", "-c", self.file, *words], directory / "serve.log", env=environment())

    def configure(self, *registries: dict[str, Any], **settings: Any) -> None:
        """Replace the file in one step, as tools do."""
        document = {
            "registries": registries or [{"name": "local", "type": "file", "path": "services"}],
            "xds": {"address": self.xds},
            "http": {"address": self.http},
            "guard": {"hold": 0},
            "drain": {"grace": 0},
            "state_dir": "state",
        }
        new = self.directory / "new.yaml"
        new.write_text(yaml.safe_dump(document | settings))
        new.rename(self.file)

    def write(self, name: str, *addresses: str, folder: str = "services") -> None:
        write_service(self.directory / folder, name, addresses)

    async def ready(self) -> None:
        async def is_ready() -> bool:
            assert self.running, self.output()
            return (await self.get("/readyz"))[0] == 200

        await eventually(is_ready, "the bridge is ready", 20)

    async def get(self, path: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.http}{path}") as answer:
            return answer.status, await answer.json()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged under a name."""
        return [e for line in self.output().splitlines() if (e := json.loads(line))["event"] == name]

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return isthmus(*words, "--bridge", self.http)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("ISTHMUS_BRIDGE", "NO_COLOR", "FORCE_COLOR")}


def isthmus(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ISTHMUS, *words], cwd=cwd, env=environment(), capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Configured, with one service, and not yet started."""
    serve = Serve(tmp_path)
    serve.configure()
    serve.write("reviews", "10.0.0.1")
    yield serve
    serve.stop()


class TestCheck:
    def test_a_good_file(self, serve: Serve) -> None:
        done = isthmus("serve", "-c", serve.file, "--check")

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{serve.file}: can be used; registries: local\n"
        assert not (serve.directory / "state").exists(), "it only looks"

    def test_the_file_of_this_folder_is_the_default(self, serve: Serve) -> None:
        done = isthmus("serve", "--check", cwd=serve.directory)

        assert done.returncode == 0
        assert done.stdout.startswith("isthmus.yaml: can be used")

    def test_what_is_missing_but_may_come_is_said(self, serve: Serve) -> None:
        shutil.rmtree(serve.directory / "services")

        done = isthmus("serve", "-c", serve.file, "--check")

        assert done.returncode == 0
        assert done.stderr == f"isthmus: registry local: {serve.directory}/services is not there (yet)\n"

    @pytest.mark.parametrize("words", [["--check"], []], ids=["check", "start"])
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"sync_timeout": "soon"}, "isthmus.yaml:12: sync_timeout: expected a number from 0 to 3600, got text"),
            ({"state_dir": "isthmus.yaml"}, "state_dir {}/isthmus.yaml: Not a directory"),
            (
                {"registries": [{"name": "c", "type": "consul", "address": "https://c", "ca_file": "ca.pem"}]},
                "registry c: ca_file {}/ca.pem: No such file or directory",
            ),
        ],
    )
    def test_an_error_is_one_sentence(self, serve: Serve, change: dict[str, Any], said: str, words: list[str]) -> None:
        """And the same one, whether the file is only checked or the bridge is started."""
        serve.configure(**change)

        done = isthmus("serve", "-c", serve.file, *words)

        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("isthmus: ")
        assert said.format(serve.directory) in line

    def test_no_file(self, tmp_path: Path) -> None:
        done = isthmus("serve", cwd=tmp_path)

        assert done.returncode == 1
        assert done.stderr == "isthmus: isthmus.yaml: No such file or directory\n"


@pytest.mark.parametrize("side", ["xds", "http"])
async def test_a_taken_port_is_one_sentence(serve: Serve, side: str) -> None:
    serve.start()
    await serve.ready()
    second = serve.directory / "second.yaml"
    other = {s: {"address": "127.0.0.1:0" if s != side else getattr(serve, s)} for s in ("xds", "http")}
    second.write_text(yaml.safe_dump(yaml.safe_load(serve.file.read_text()) | other | {"state_dir": "state2"}))

    done = isthmus("serve", "-c", second)

    assert done.returncode == 1
    assert done.stderr == f"isthmus: {side}.address {getattr(serve, side)}: Address already in use\n"


async def test_it_logs_json_and_ends_well(serve: Serve) -> None:
    """SIGTERM ends the streams in order and the process with status 0, within seconds."""
    serve.start()
    await serve.ready()
    async with Client(serve.xds) as client:
        await client.converge()
        began = time.monotonic()

        status = serve.stop(grace=10)

        assert status == 0
        assert time.monotonic() - began < 5
        with pytest.raises(Refused, match="UNAVAILABLE"):
            await client.expect()
    (started,) = serve.events("bridge.started")
    assert started["xds"] == serve.xds
    assert [e["node"] for e in serve.events("xds.connected")] == ["envoy"]
    assert serve.events("bridge.stopped")


async def test_ctrl_c_ends_it_well_too(serve: Serve) -> None:
    serve.start()
    await serve.ready()

    serve.send_signal(signal.SIGINT)

    await eventually(lambda: not serve.running, "it has ended")
    assert serve.stop() == 0
    assert "Traceback" not in serve.output()


class TestReload:
    async def reloaded(self, serve: Serve, times: int = 1) -> dict[str, Any]:
        await eventually(lambda: len(serve.events("bridge.reloaded")) == times, "it was reloaded")
        return serve.events("bridge.reloaded")[-1]

    async def test_a_change_of_the_file_is_taken_over(self, serve: Serve) -> None:
        """And the registry that was there is not touched."""
        serve.start()
        await serve.ready()
        serve.write("details", "10.0.0.9", folder="more")
        async with Client(serve.xds) as client:
            await client.subscribe(CDS)
            await client.take(CDS)

            serve.configure(
                *({"name": n, "type": "file", "path": p} for n, p in (("local", "services"), ("more", "more")))
            )

            assert set((await client.take(CDS)).resources) == {"outbound|80||details.default.mesh"}
        assert (await self.reloaded(serve))["changed"] == ["more"]
        assert [e["origin"] for e in serve.events("registry.synced")] == ["local", "more"]

    async def test_sighup_reads_it_again(self, serve: Serve) -> None:
        """Unchanged: the log says so, and nobody is listed anew."""
        serve.start()
        await serve.ready()

        serve.send_signal(signal.SIGHUP)

        assert (await self.reloaded(serve))["changed"] == []
        assert len(serve.events("registry.synced")) == 1
        assert not serve.events("bridge.restart_needed")

    async def test_a_secret_that_was_replaced_is_read_by_sighup(self, serve: Serve) -> None:
        """It stands in another file, which is not watched."""
        (serve.directory / "token").write_text("one")
        consul = {"name": "consul", "type": "consul", "address": "http://127.0.0.1:1", "token": "${file:token}"}
        local = {"name": "local", "type": "file", "path": "services"}
        serve.configure(local, consul, sync_timeout=0)
        serve.start()
        await serve.ready()

        (serve.directory / "token").write_text("tw0")
        serve.send_signal(signal.SIGHUP)

        assert (await self.reloaded(serve))["changed"] == ["consul"]
        assert "tw0" not in serve.output()

    async def test_a_file_behind_swapped_links_is_followed(self, serve: Serve) -> None:
        """As Kubernetes and consul-template publish: the directory that the link leads to is another one at once."""
        for version in ("v1", "v2"):
            (serve.directory / version).mkdir()
        serve.file.rename(serve.directory / "v1" / "isthmus.yaml")
        (serve.directory / "data").symlink_to("v1")
        serve.file.symlink_to("data/isthmus.yaml")
        serve.start()
        await serve.ready()
        document = yaml.safe_load(serve.file.read_text())
        document["registries"].append({"name": "more", "type": "file", "path": "more"})
        (serve.directory / "v2" / "isthmus.yaml").write_text(yaml.safe_dump(document))

        (serve.directory / "new").symlink_to("v2")
        (serve.directory / "new").rename(serve.directory / "data")

        assert (await self.reloaded(serve))["changed"] == ["more"]

    async def test_a_file_that_is_written_in_pieces_is_read_when_it_is_whole(self, serve: Serve) -> None:
        """Half of it would be valid as well, and would take a registry away."""
        more = {"name": "more", "type": "file", "path": "more"}
        local = {"name": "local", "type": "file", "path": "services"}
        serve.configure(local, more)
        serve.write("details", "10.0.0.9", folder="more")
        serve.start()
        await serve.ready()
        document: dict[str, Any] = yaml.safe_load(serve.file.read_text())
        registries = document.pop("registries")

        with serve.file.open("w") as file:
            for part in (document, {"registries": registries[:1]}):
                file.write(yaml.safe_dump(part))
                file.flush()
            file.write("- {name: more, type: file, path: more}\n- {name: third, type: file, path: third}\n")

        assert (await self.reloaded(serve))["changed"] == ["third"]

    async def test_an_error_changes_nothing(self, serve: Serve) -> None:
        serve.start()
        await serve.ready()

        serve.file.write_text("registries: [{name: local, type: file}]\n")
        await eventually(lambda: serve.events("bridge.reload_refused"), "it is refused")

        (refused,) = serve.events("bridge.reload_refused")
        assert refused["error"] == f"{serve.file}:1: registries[0]: path is missing"
        assert len((await serve.get("/debug/catalog"))[1]["services"]) == 1
        serve.configure(sync_timeout=7)
        await self.reloaded(serve)


class TestListings:
    @pytest.fixture
    async def running(self, serve: Serve) -> Serve:
        serve.write("ratings", "10.0.0.5", "10.0.0.6")
        serve.start()
        await serve.ready()
        return serve

    async def test_services(self, running: Serve) -> None:
        table = running.ask("services")
        detail = running.ask("services", "ratings")
        absent = running.ask("services", "nobody")

        assert [line.split() for line in table.stdout.splitlines()] == [
            ["SERVICE", "NAMESPACE", "PORTS", "SERVING", "ORIGINS", "REMARKS"],
            ["ratings", "default", "80/http", "2/2", "local", "-"],
            ["reviews", "default", "80/http", "1/1", "local", "-"],
        ]
        assert [line.split()[1:5] for line in detail.stdout.splitlines()[1:]] == [
            ["ratings-10.0.0.5", "10.0.0.5", "http=80", "healthy"],
            ["ratings-10.0.0.6", "10.0.0.6", "http=80", "healthy"],
        ]
        assert (absent.returncode, absent.stdout) == (1, "")
        assert absent.stderr == f"isthmus: no service nobody in the catalog of {running.http}\n"

    @pytest.mark.parametrize("output", ["yaml", "json"])
    async def test_what_is_printed_is_what_files_hold(self, running: Serve, output: str) -> None:
        """A folder with that in it gives the same services again."""
        printed = running.ask("services", "-o", output).stdout
        document = parse_document(printed.encode(), "local")
        assert document.problems == ()
        assert {e.service.key.name for e in document.entries} == {"ratings", "reviews"}

        (running.directory / "made").mkdir()
        (running.directory / "made" / f"all.{output}").write_text(printed)
        before = (await running.get("/readyz"))[1]["registries"]["local"]["cursor"]
        running.configure({"name": "local", "type": "file", "path": "made"})

        async def listed_anew() -> bool:
            return bool((await running.get("/readyz"))[1]["registries"]["local"]["cursor"] != before)

        await eventually(listed_anew, "the other folder is read")
        assert running.ask("services", "-o", output).stdout == printed

    async def test_a_registry_that_is_stale_is_mentioned(self, running: Serve) -> None:
        shutil.rmtree(running.directory / "services")
        await eventually(lambda: running.events("registry.stale"), "it is stale")

        done = running.ask("services", "-o", "json")

        assert done.returncode == 0
        assert len(json.loads(done.stdout)["services"]) == 2
        assert done.stderr.startswith("isthmus: registry local: stale for ")

    async def test_proxy_status(self, running: Serve) -> None:
        """0 when all are in step, 3 when one is not, and why."""
        nobody = running.ask("proxy-status")
        assert (nobody.returncode, nobody.stdout) == (0, "")
        assert nobody.stderr == f"isthmus: no proxies are connected to {running.http}\n"

        async with Client(running.xds, node="web-1") as client, Client(running.xds, node="web-2", delta=False) as other:
            await client.converge()
            await other.converge()

            async def settled() -> bool:
                _, proxies = await running.get("/debug/proxies")
                return len(proxies) == 2 and all(t["state"] == "SYNCED" for p in proxies for t in p["types"])

            await eventually(settled, "both are in step")
            good = running.ask("proxy-status")
            assert good.returncode == 0
            rows = [line.split()[:3] for line in good.stdout.splitlines()]
            assert rows == [
                ["PROXY", "TYPE", "STATE"],
                *([node, kind, "SYNCED"] for node in ("web-1", "web-2") for kind in ("CDS", "EDS", "LDS", "RDS")),
            ]

            running.write("details", "10.0.0.9")
            answer = await client.expect(CDS)
            stale = running.ask("proxy-status", "web-1")
            assert stale.returncode == 3
            assert "STALE" in stale.stdout
            assert "web-2" not in stale.stdout

            await client.nack(answer, "no such\ncipher")

            async def rejected() -> bool:
                _, proxies = await running.get("/debug/proxies")
                return any(t["error"] for p in proxies for t in p["types"])

            await eventually(rejected, "the rejection is known")
            bad = running.ask("proxy-status")
            assert bad.returncode == 3
            (row,) = (line for line in bad.stdout.splitlines() if "REJECTED" in line)
            assert row.startswith("web-1")
            assert row.endswith("no such cipher")

            document = running.ask("proxy-status", "web-1", "-o", "json")
            assert document.returncode == 3
            (proxy,) = json.loads(document.stdout)
            (cds,) = (t for t in proxy["types"] if t["type"] == "CDS")
            assert (proxy["node"], proxy["variant"]) == ("web-1", "delta")
            assert (cds["state"], cds["error"]) == ("REJECTED", "no such\ncipher")
            assert cds["sent"] != cds["acked"]
            assert yaml.safe_load(running.ask("proxy-status", "web-1", "-o", "yaml").stdout)[0]["node"] == "web-1"
        assert running.ask("proxy-status", "nobody").returncode == 1

    async def test_a_reader_that_leaves_is_no_error(self, running: Serve) -> None:
        """`isthmus services | head -1`."""
        done = into_closed_pipe("services", "-o", "json", "--bridge", running.http)

        assert done.returncode == 141
        assert done.stderr == b""

    async def test_colours_are_for_terminals(self, running: Serve) -> None:
        assert "\x1b[" not in running.ask("services", "ratings").stdout
        shown = on_terminal(ISTHMUS, "services", "ratings", "--bridge", running.http)
        assert "\x1b[32mhealthy\x1b[0m" in shown
        assert "\x1b[" not in on_terminal(
            ISTHMUS, "services", "ratings", "--bridge", running.http, NO_COLOR="1"
        ).replace("\x1b[1m", "").replace("\x1b[0m", "")


class TestQuestions:
    """What somebody on call asks, typed as it is typed."""

    @pytest.fixture
    async def running(self, serve: Serve) -> Serve:
        serve.configure(guard={"hold": 300}, drain={"grace": 300})
        serve.write("ratings", "10.0.0.5", "10.0.0.6")
        serve.start()
        await serve.ready()
        return serve

    async def until(self, serve: Serve, said: str, *words: str) -> subprocess.CompletedProcess[str]:
        """The command once it says something."""
        asked: list[subprocess.CompletedProcess[str]] = []

        def says() -> bool:
            asked.append(serve.ask(*words))
            return said in asked[-1].stdout

        await eventually(says, f"{' '.join(words)}: {said}", 20)
        return asked[-1]

    async def hold(self, serve: Serve) -> None:
        """Have the registry come back with less than half."""
        shutil.rmtree(serve.directory / "services")
        await eventually(lambda: serve.events("registry.stale"), "it is stale")
        serve.write("reviews", "10.0.0.1")
        await eventually(lambda: len(serve.events("registry.held")) == 2, "two are held")

    async def test_registries(self, running: Serve) -> None:
        good = running.ask("registries")
        shutil.rmtree(running.directory / "services")
        bad = await self.until(running, "STALE", "registries")

        assert (good.returncode, good.stderr) == (0, "")
        assert good.stdout.splitlines()[1].split()[:5] == ["local", "file", "SYNCED", "2", "3"]
        assert good.stdout.splitlines()[1].endswith(f"{running.directory}/services")
        assert bad.returncode == 3
        assert bad.stderr.startswith("isthmus: registry local: cannot be read for ")

    async def test_holds_and_their_release(self, running: Serve) -> None:
        none = running.ask("holds")
        await self.hold(running)

        held = running.ask("holds")
        services = running.ask("services")
        wrong = running.ask("holds", "release", "reviews")
        released = running.ask("holds", "release", "ratings")

        assert (none.returncode, none.stdout, none.stderr) == (0, "", f"isthmus: nothing is held by {running.http}\n")
        assert [line.split()[:4] for line in held.stdout.splitlines()[1:]] == [
            ["ratings.default", f"ratings-{a}", a, "local"] for a in ("10.0.0.5", "10.0.0.6")
        ]
        assert "only 1 of 3 instances were left" in held.stdout
        assert services.stdout.splitlines()[1].split() == ["ratings", "default", "80/http", "2/2", "local", "2", "held"]
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert wrong.stderr == "isthmus: nothing is held of reviews; held are instances of ratings.default\n"
        assert (released.returncode, released.stdout) == (0, "2 instances are no longer held of ratings.default\n")
        leaving = await self.until(running, "draining, gone in", "services", "ratings")
        assert "draining, gone in 5 min" in leaving.stdout
        assert running.ask("holds").stdout == ""

    async def test_parity(self, running: Serve) -> None:
        running.write("reviews", "10.0.0.1", folder="more")
        running.write("ratings", "10.0.0.5", "10.0.0.6", folder="more")
        running.configure(
            *({"name": n, "type": "file", "path": p} for n, p in (("local", "services"), ("more", "more")))
        )
        await eventually(lambda: len(running.events("registry.synced")) == 2, "both are known")
        same = running.ask("parity", "local", "more")
        running.write("ratings", "10.0.0.5", "10.0.0.7", folder="more")
        differ = await self.until(running, "10.0.0.7:80", "parity", "local", "more")
        unknown = running.ask("parity", "local", "eureka")

        assert (same.returncode, same.stdout) == (0, "")
        assert same.stderr.splitlines()[0] == "isthmus: local and more list the same"
        assert differ.returncode == 3
        assert [line.split() for line in differ.stdout.splitlines()] == [
            ["SERVICE", "WHAT", "LOCAL", "MORE"],
            ["ratings.default", "10.0.0.6:80", "healthy", "-"],
            ["ratings.default", "10.0.0.7:80", "-", "healthy"],
        ]
        assert differ.stderr == (
            "isthmus: local: 2 services, 3 instances; more: 2 services, 3 instances; the same in both: 1\n"
        )
        assert (unknown.returncode, unknown.stderr) == (1, "isthmus: no registry eureka; there are local, more\n")

    async def test_doctor(self, running: Serve) -> None:
        sound = running.ask("doctor")
        running.write("details", "10.0.0.1")
        doubtful = await self.until(running, "SharedAddress", "doctor")

        assert (sound.returncode, sound.stdout) == (0, "")
        assert doubtful.returncode == 3
        finding, fix = doubtful.stdout.split("\n\n")
        assert "details.default, reviews.default  list the same place: 10.0.0.1:80" in finding
        assert fix.splitlines()[1].startswith("SharedAddress  fine if ")

    async def test_explain_endpoint(self, running: Serve) -> None:
        async with Client(running.xds, node="web-1") as client:
            await client.converge()
            good = await self.until(running, "it gets requests", "explain", "endpoint", "reviews", "10.0.0.1:80")
        absent = running.ask("explain", "endpoint", "reviews", "10.0.0.9:80")
        wrong = running.ask("explain", "endpoint", "reviews", "10.0.0.9")

        first, _, head, *rows = good.stdout.splitlines()
        assert good.returncode == 0
        assert first == "10.0.0.1:80 of reviews.default: it gets requests: web-1 has acknowledged it"
        assert head.split() == ["STAGE", "WHERE", "VERDICT", "WHAT"]
        assert [row.split()[0] for row in rows] == ["registry", "health", "merge", "translate", "proxy"]
        assert absent.returncode == 3
        assert absent.stdout.startswith("10.0.0.9:80 of reviews.default: it gets no requests: no registry lists it: ")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr == "isthmus: endpoint '10.0.0.9': expected ADDRESS:PORT, [IPv6]:PORT or unix:///path\n"


def test_logs_on_a_terminal_are_for_people(serve: Serve) -> None:
    shown = on_terminal(ISTHMUS, "serve", "-c", serve.file, until="registry.synced")

    (line,) = (line for line in shown.splitlines() if "registry.synced" in line)
    assert "\x1b[" in line
    assert "{" not in line
    assert "services" in line
    assert "bridge.stopped" in shown


def into_closed_pipe(*words: str) -> subprocess.CompletedProcess[bytes]:
    """A command whose standard output nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [ISTHMUS, *words], env=environment(), stdout=write, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(write)


def on_terminal(*words: str | Path, until: str = "", **variables: str) -> str:
    """What a command shows on a pseudo terminal to its end, which is asked for once `until` was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment() | {"TERM": "xterm-256color", "COLUMNS": "120"} | variables,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
        if until and until.encode() in shown:
            process.terminate()
            until = ""
    process.wait(10)
    os.close(ours)
    return shown.decode()
