"""The commands as they are typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from isthmus.cli.main import COMMANDS
from tests.servers.process import free_port
from tests.unit.cli.conftest import Pretender, Run

SUBCOMMANDS = [(command,) for command in COMMANDS] + [
    *(("holds", "release"), ("explain", "endpoint"), ("workload", "bundle"), ("workload", "group"))
]


class TestHelp:
    @pytest.mark.parametrize("words", SUBCOMMANDS, ids=" ".join)
    def test_every_command_explains_itself_with_examples(self, run: Run, words: tuple[str, ...]) -> None:
        done = run(*words, "--help")

        assert done.status == 0
        assert f"Usage: isthmus {' '.join(words)}" in done.out
        _, _, examples = done.out.partition("Examples:\n")
        assert re.search(rf"^  .*\bisthmus {' '.join(words)}", examples, re.MULTILINE)
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
        for words in SUBCOMMANDS:
            help_text = run(*words, "--help").out
            parameters, _, examples = help_text.partition("Examples:\n")
            typed = set(re.findall(r"(?<=\s)(--?[a-z][\w-]*)", " ".join(re.findall(r"isthmus [^|>&)]*", examples))))
            assert typed <= set(re.findall(r"(?<=\s)(--?[a-z][\w-]*)", parameters)), words


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
            (["bootstrap", "--grpc", "--sotw"], "--sotw is for an Envoy's bootstrap"),
            (["bootstrap", "--grpc", "-o", "yaml"], "--output yaml is for an Envoy's bootstrap"),
            (["bootstrap", "--grpc", "--admin", "[::1]:9901"], "--admin is for an Envoy's bootstrap"),
            (["bootstrap", "--cert", "a.pem", "--key", "a.key"], "add --ca"),
            (["bootstrap", "--ca", "ca.pem", "--cert", "a.pem"], "--cert and --key go together"),
            (["services", "--bridge", "http://127.0.0.1:15014"], "expected HOST:PORT"),
            (["completion"], "SHELL"),
            (["holds", "release"], "NAME"),
            (["parity", "consul"], "SECOND"),
            (["explain", "endpoint", "reviews"], "ADDRESS"),
            (["explain", "service"], "service"),
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

    def test_a_grpc_program_gets_its_own(self, run: Run) -> None:
        """Rule 50."""
        words = ("--grpc", "--xds", "[::1]:1234", "--node", "web-1", "--zone", "eu-1", "-o", "json")

        document = json.loads(run("bootstrap", *words).out)

        (bridge,) = document["xds_servers"]
        assert (bridge["server_uri"], bridge["channel_creds"]) == ("[::1]:1234", [{"type": "insecure"}])
        assert document["node"] == {"id": "web-1", "cluster": "isthmus", "locality": {"zone": "eu-1"}}


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
        assert "release" in self.complete(run, tmp_path, "isthmus holds ")
        assert "endpoint" in self.complete(run, tmp_path, "isthmus explain ")
        assert "--log-level" in self.complete(run, tmp_path, "isthmus serve --")
        assert self.complete(run, tmp_path, "isthmus version -o ") == {"table", "json", "yaml"}

    @pytest.mark.parametrize("shell", ["zsh", "fish"])
    def test_other_shells(self, run: Run, shell: str) -> None:
        done = run("completion", shell)

        assert done.status == 0
        assert "proxy-status" in done.out


QUESTIONS = [
    ["services"],
    ["proxy-status"],
    ["registries"],
    ["workloads"],
    ["holds"],
    ["holds", "release", "reviews"],
    ["parity", "consul", "eureka"],
    ["doctor"],
    ["explain", "endpoint", "reviews", "10.0.0.1:80"],
]


@pytest.mark.parametrize("words", QUESTIONS, ids=" ".join)
class TestNoBridge:
    def test_nobody_there(self, run: Run, words: list[str]) -> None:
        port = free_port()

        done = run(*words, "--bridge", f"127.0.0.1:{port}")

        assert (done.status, done.out) == (1, "")
        assert done.err == (
            f"isthmus: no answer from a bridge at 127.0.0.1:{port}: Connection refused; --bridge HOST:PORT says where it is\n"
        )

    def test_the_environment_says_where_it_is(self, run: Run, words: list[str]) -> None:
        port = free_port()

        assert f"127.0.0.1:{port}" in run(*words, ISTHMUS_BRIDGE=f"127.0.0.1:{port}").err

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ((404, b"not here"), "answered 404: is that a bridge, and of this version?"),
            ((404, b'["not here"]'), "answered 404: is that a bridge, and of this version?"),
            ((200, b"<html>"), "other than JSON"),
            ((200, b"\xff\xfe"), "other than JSON"),
            ((200, b'{"a": 1}'), "is that a bridge of another version?"),
        ],
    )
    def test_somebody_else(
        self, run: Run, words: list[str], answer: tuple[int, bytes], said: str, pretender: Pretender
    ) -> None:
        pretender.status, pretender.content = answer

        done = run(*words, "--bridge", pretender.address)

        assert (done.status, done.out) == (1, "")
        assert len(done.err.splitlines()) == 1
        assert said in done.err

    @pytest.mark.parametrize(("status", "exit_status"), [(400, 2), (404, 1), (409, 1)])
    def test_a_bridge_that_refuses_says_why(
        self, run: Run, words: list[str], status: int, exit_status: int, pretender: Pretender
    ) -> None:
        done = run(*words, "--bridge", pretender.says({"error": "no registry x; there is\nconsul"}, status))

        assert done == (exit_status, "", "isthmus: no registry x; there is consul\n")

    def test_a_proxy_of_the_environment_is_not_asked(self, run: Run, words: list[str]) -> None:
        """The bridge is a neighbour, and what it holds is nobody else's business."""
        port = free_port()

        done = run(*words, "--bridge", f"127.0.0.1:{port}", http_proxy=f"http://127.0.0.1:{free_port()}", no_proxy="")

        assert f"at 127.0.0.1:{port}" in done.err
