"""The commands as they are typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import yaml

from isthmus.cli.main import COMMANDS, main
from tests.servers.process import free_port


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `isthmus` with words and variables of the environment."""
    for name in ("ISTHMUS_BRIDGE", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str, **environment: str) -> Done:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["isthmus", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself_with_examples(self, run: Run, command: str) -> None:
        done = run(command, "--help")

        assert done.status == 0
        assert f"Usage: isthmus {command}" in done.out
        _, _, examples = done.out.partition("Examples:\n")
        assert re.search(rf"^  .*\bisthmus {command}", examples, re.MULTILINE)
        assert 'default: ""' not in done.out
        assert "default: False" not in done.out

    @pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
    def test_the_list_has_a_sentence_for_each_command(self, run: Run, words: tuple[str, ...]) -> None:
        done = run(*words)

        assert done.status == 0
        for command in COMMANDS:
            assert re.search(rf"│ {command} +[A-Z]\w+ ", done.out), command

    def test_examples_are_accepted(self, run: Run) -> None:
        """Options in the examples exist."""
        for command in COMMANDS:
            help_text = run(command, "--help").out
            parameters, _, examples = help_text.partition("Examples:\n")
            typed = set(re.findall(r"(?<=\s)(--?[a-z][\w-]*)", " ".join(re.findall(r"isthmus [^|>&)]*", examples))))
            assert typed <= set(re.findall(r"(?<=\s)(--?[a-z][\w-]*)", parameters)), command


class TestWrongWords:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["srve"], 'Did you mean "serve"'),
            (["serve", "--chek"], "--check"),
            (["version", "-o", "xml"], '"table", "json", "yaml"'),
            (["serve", "--log-level", "loud"], '"debug", "info", "warning", "error"'),
            (["bootstrap", "--xds", "bridge"], "--xds 'bridge': expected HOST:PORT"),
            (["bootstrap", "--node", ""], "--node: expected a name"),
            (["services", "--bridge", "http://127.0.0.1:15014"], "expected HOST:PORT"),
            (["completion"], "SHELL"),
        ],
    )
    def test_one_sentence_and_status_2(self, run: Run, words: list[str], said: str) -> None:
        done = run(*words)

        assert done.status == 2
        assert done.out == ""
        assert done.err.startswith("isthmus: ")
        assert len(done.err.splitlines()) == 1
        assert said in done.err


def test_version(run: Run) -> None:
    table, document = run("version").out, json.loads(run("version", "-o", "json").out)

    assert re.search(rf"^isthmus +{re.escape(document['isthmus'])}$", table, re.MULTILINE)
    assert {"python", "grpcio", "protobuf"} <= document.keys()
    assert run("--version").out.strip() == document["isthmus"]


class TestBootstrap:
    def test_it_names_the_bridge_and_this_machine(self, run: Run) -> None:
        document = yaml.safe_load(run("bootstrap", "--xds", "bridge.example:1234", "--zone", "eu-1").out)

        assert document["node"]["id"] == os.uname().nodename
        assert document["node"]["locality"] == {"zone": "eu-1"}
        assert document["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
        assert "bridge.example" in str(document["static_resources"])

    def test_json_says_the_same(self, run: Run) -> None:
        words = ("bootstrap", "--node", "web-1", "--admin", "[::1]:9901", "--sotw")

        document = json.loads(run(*words, "-o", "json").out)

        assert document == yaml.safe_load(run(*words).out)
        assert document["admin"]["address"]["socket_address"] == {"address": "::1", "port_value": 9901}
        assert document["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"


class TestCompletion:
    def complete(self, run: Run, tmp_path: Path, line: str) -> set[str]:
        """What bash offers at the end of a line."""
        bash = shutil.which("bash")
        if bash is None:
            pytest.skip("bash is not on PATH")
        script = tmp_path / "completion"
        script.write_text(run("completion", "bash").out)
        words = line.split(" ")
        program = f"""
source {script}
COMP_WORDS=({" ".join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}
COMP_LINE={line!r}; COMP_POINT={len(line)}
$(complete -p isthmus | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        done = subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True, timeout=30)
        return {word.strip() for word in done.stdout.split()}

    def test_commands_options_and_values(self, run: Run, tmp_path: Path) -> None:
        assert self.complete(run, tmp_path, "isthmus ") >= set(COMMANDS)
        assert self.complete(run, tmp_path, "isthmus pro") == {"proxy-status"}
        assert "--log-level" in self.complete(run, tmp_path, "isthmus serve --")
        assert self.complete(run, tmp_path, "isthmus version -o ") == {"table", "json", "yaml"}

    @pytest.mark.parametrize("shell", ["zsh", "fish"])
    def test_other_shells(self, run: Run, shell: str) -> None:
        done = run("completion", shell)

        assert done.status == 0
        assert "proxy-status" in done.out


@pytest.fixture
def pretender() -> Iterator[ThreadingHTTPServer]:
    """An HTTP server that answers everything with `server.content` and `server.status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(server.status)  # type: ignore[attr-defined]
            self.end_headers()
            self.wfile.write(server.content)  # type: ignore[attr-defined]

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("command", ["services", "proxy-status"])
class TestNoBridge:
    def test_nobody_there(self, run: Run, command: str) -> None:
        port = free_port()

        done = run(command, "--bridge", f"127.0.0.1:{port}")

        assert (done.status, done.out) == (1, "")
        assert done.err == (
            f"isthmus: no answer from a bridge at 127.0.0.1:{port}: Connection refused; --bridge HOST:PORT says where it is\n"
        )

    def test_the_environment_says_where_it_is(self, run: Run, command: str) -> None:
        port = free_port()

        assert f"127.0.0.1:{port}" in run(command, ISTHMUS_BRIDGE=f"127.0.0.1:{port}").err

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ((404, b"not here"), "answered 404: is that a bridge?"),
            ((200, b"<html>"), "other than JSON"),
            ((200, b"\xff\xfe"), "other than JSON"),
            ((200, b'{"a": 1}'), "is that a bridge of another version?"),
        ],
    )
    def test_somebody_else(
        self, run: Run, command: str, answer: tuple[int, bytes], said: str, pretender: ThreadingHTTPServer
    ) -> None:
        pretender.status, pretender.content = answer  # type: ignore[attr-defined]

        done = run(command, "--bridge", f"127.0.0.1:{pretender.server_port}")

        assert (done.status, done.out) == (1, "")
        assert len(done.err.splitlines()) == 1
        assert said in done.err

    def test_a_proxy_of_the_environment_is_not_asked(self, run: Run, command: str) -> None:
        """The bridge is a neighbour, and what it holds is nobody else's business."""
        port = free_port()

        done = run(command, "--bridge", f"127.0.0.1:{port}", http_proxy=f"http://127.0.0.1:{free_port()}", no_proxy="")

        assert f"at 127.0.0.1:{port}" in done.err
