"""`isthmus workload`: bundles for machines, from a WorkloadGroup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isthmus.agent.load import load
from isthmus.agent.registration.config import BridgeRegistration
from isthmus.registry.settings import ConfigError
from tests.unit.cli.conftest import Run


@pytest.fixture
def group(run: Run, tmp_path: Path) -> Path:
    """A file with what `isthmus workload group` prints."""
    words = ("--port", "http=9080", "--port", "grpc-api=9000", "--label", "version=v1", "--locality", "eu/eu-1")
    bridge = ("--discovery-address", "10.0.0.2:15010", "--bridge", "http://10.0.0.2:15014")
    file = tmp_path / "group.yaml"
    file.write_text(run("workload", "group", "reviews", "--namespace", "bookinfo", *words, *bridge).out)
    return file


def test_a_group_is_what_an_agent_takes(group: Path) -> None:
    config = load(group)

    (service,) = config.services
    assert (service.name, service.namespace, service.labels) == (
        "reviews",
        "bookinfo",
        {"app": "reviews", "version": "v1"},
    )
    assert [(p.name, p.port) for p in service.ports] == [("http", 9080), ("grpc-api", 9000)]
    assert config.discovery_address == "10.0.0.2:15010"
    assert isinstance(config.registration, BridgeRegistration)
    assert config.registration.addresses == ("http://10.0.0.2:15014",)
    assert config.dns
    assert config.locality == "eu/eu-1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "http"), "--port 'http': expected two words with = between"),
        (("--port", "http=99999"), "expected a number from 1 to 65535"),
        (("--label", "version"), "--label 'version': expected two words with = between"),
        (("--discovery-address", "bridge"), "'bridge': expected host:port"),
    ],
)
def test_a_group_that_no_agent_would_take_is_not_printed(run: Run, words: tuple[str, ...], said: str) -> None:
    done = run("workload", "group", "reviews", *words)

    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_a_bundle_says_the_same_as_its_group(run: Run, group: Path, tmp_path: Path) -> None:
    """With the machine's own name and address; it is for its owner's eyes only."""
    folder = tmp_path / "vms" / "vm-1"
    done = run("workload", "bundle", str(group), str(folder), "--node", "vm-1", "--address", "10.0.0.5", "-o", "json")

    files = sorted(path.name for path in folder.iterdir())
    assert files == ["README.md", "agent.yaml", "bundle.json"]
    shown = json.loads(done.out)
    assert (shown["folder"], shown["node"], shown["services"]) == (str(folder), "vm-1", ["reviews"])
    assert sorted(shown["files"]) == files
    config, of_group = load(folder / "agent.yaml"), load(group)
    assert (config.node, config.address) == ("vm-1", "10.0.0.5")
    assert (config.services, config.dns, config.registration) == (
        of_group.services,
        of_group.dns,
        of_group.registration,
    )
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert "dns-setup" in (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["vm-1"]


def test_a_token_and_an_authority_come_with_it(run: Run, group: Path, tmp_path: Path) -> None:
    """The token stands in a file of its own, which the README names; nothing prints it."""
    (tmp_path / "a-token").write_text("very-secret\n")
    (tmp_path / "a-ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    folder = tmp_path / "vm-1"

    done = run(*words(group, folder, "--token", str(tmp_path / "a-token"), "--ca", str(tmp_path / "a-ca.pem")))

    assert done.status == 0, done.err
    config = load(folder / "agent.yaml")
    assert isinstance(config.registration, BridgeRegistration)
    assert config.registration.token == "very-secret"  # noqa: S105 - of this test
    assert config.discovery_tls
    assert config.discovery_tls.ca_file == str(folder / "ca.pem")
    readme = (folder / "README.md").read_text()
    assert "agent.yaml token ca.pem" in readme
    assert "very-secret" not in (folder / "agent.yaml").read_text() + readme + done.out + done.err

    (folder / "token").unlink()
    with pytest.raises(ConfigError, match="cannot read token"):
        load(folder / "agent.yaml")


def words(group: Path, folder: Path, *more: str) -> tuple[str, ...]:
    return ("workload", "bundle", str(group), str(folder), *more)


def test_an_unchanged_bundle_is_replaced(run: Run, group: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vm-1"
    assert run(*words(group, folder, "--node", "one")).status == 0

    assert run(*words(group, folder, "--node", "two")).status == 0

    assert load(folder / "agent.yaml").node == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["group.yaml", "vm-1"]


@pytest.mark.parametrize("what", ["changed", "added", "folder", "foreign", "empty", "file"])
def test_what_it_did_not_write_is_left_alone(run: Run, group: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "vm-1"
    if what in ("changed", "added", "folder"):
        assert run(*words(group, folder)).status == 0
    match what:
        case "changed":
            with (folder / "agent.yaml").open("a") as file:
                file.write("# mine\n")
        case "added":
            (folder / "notes").write_text("mine")
        case "folder":
            (folder / "more").mkdir()
        case "foreign":
            folder.mkdir()
            (folder / "agent.yaml").write_text("{}")
        case "empty":
            folder.mkdir()
        case _:
            folder.write_text("mine")
    before = contents(tmp_path)

    done = run(*words(group, folder, "--node", "other"))

    assert done.status == 1
    assert str(folder) in done.err
    assert done.err.count("\n") == 1
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("discoveryAddress: 127.0.0.1:15010\n", "expected a WorkloadGroup or a WorkloadEntry"),
        ("apiVersion: networking.istio.io/v1\nkind: Gateway\n", "group.yaml:1: metadata is missing"),
        ("{", "group.yaml:"),
    ],
)
def test_what_is_no_group_makes_no_bundle(run: Run, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "group.yaml"
    file.write_text(text)

    done = run(*words(file, tmp_path / "vm-1"))

    assert done.status == 1
    assert said in done.err
    assert not (tmp_path / "vm-1").exists()


@pytest.mark.parametrize("more", [("--address", "here"), ("--token", "nowhere"), ("--ca", "nowhere")])
def test_a_bundle_that_no_agent_would_take_is_not_written(
    run: Run, group: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    done = run(*words(group, tmp_path / "vm-1", *more))

    assert done.status == 1
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["group.yaml"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_part_of_a_bundle_is_refused(run: Run, group: Path, tmp_path: Path, share: float) -> None:
    """By any command that reads it, in one sentence that says what to do."""
    assert run(*words(group, tmp_path / "vm-1")).status == 0
    file = tmp_path / "vm-1" / "agent.yaml"
    text = file.read_text()
    file.write_text(text[: int(len(text) * share)])

    done = run("agent", "bootstrap", "-c", str(file))

    assert (done.status, done.out) == (1, "")
    assert "copy the bundle again" in done.err
    assert done.err.count("\n") == 1


def test_a_bundle_may_be_changed_on_its_machine(run: Run, group: Path, tmp_path: Path) -> None:
    assert run(*words(group, tmp_path / "vm-1")).status == 0
    file = tmp_path / "vm-1" / "agent.yaml"
    file.write_text(file.read_text().replace("weight: 1", "weight: 7"))

    assert load(file).services[0].weight == 7
