"""`isthmus workload`: what a machine needs to join the mesh, made from a WorkloadGroup of Istio."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from cyclopts import App, Parameter

from isthmus.agent.bundle import MANIFEST, digest, to_bundle, written_files
from isthmus.agent.load import load, parse
from isthmus.agent.workload import ANNOTATION, to_settings
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Output, print_document
from isthmus.registry.settings import ConfigError, read_settings

Text = Annotated[str, Parameter(show_default=False)]
_SECRET, _AUTHORITY = "token", "ca.pem"


class Bundled(msgspec.Struct, frozen=True):
    """What `bundle` prints with `-o json`."""

    folder: str
    node: str
    services: tuple[str, ...]
    files: tuple[str, ...]


def bundle(
    group: Path,
    folder: Path,
    /,
    *,
    node: Text = "",
    address: Text = "",
    token: Path | None = None,
    ca: Path | None = None,
    output: Output = "table",
) -> None:
    """Write the folder that one machine needs to join: agent.yaml, the files that it refers to, and a README with what to do.

    It is made from a WorkloadGroup; references in it, such as ${env:TOKEN}, are replaced at once. The folder comes into being
    whole or not at all. One that is there already is replaced if it is a bundle that nobody has changed.

    Examples:
        isthmus workload bundle reviews.yaml vm-1 --node vm-1 --address 10.0.0.5

        isthmus workload bundle reviews.yaml vm-1 --token consul-token --ca mesh-ca.pem

    Args:
        group: A file with a WorkloadGroup or a WorkloadEntry.
        folder: Where to write; it belongs to whoever runs this, and nobody else can read it.
        node: What the machine is called; by default what its host name is.
        address: The IP address at which others reach it; by default the one from which it reaches the bridge.
        token: A file with the token for the registry; it is put into the bundle.
        ca: A PEM file with the authority that signed the bridge's certificate; it is put into the bundle.
        output: As a table, JSON or YAML.

    """
    settings, further = _settings(group, node, address, token, ca)
    files = to_bundle(settings, further)
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            made = Path(place) / "new"
            made.mkdir(mode=0o700)
            for name, content in files.items():
                _write(made / name, content)
            _check(made)
            _require_own(folder)
            with contextlib.suppress(FileNotFoundError):
                folder.rename(Path(place) / "old")
            made.rename(folder)
    except OSError as e:
        raise CommandError(f"{e.filename or folder}: {e.strerror}") from None
    done = Bundled(str(folder), settings.get("node", ""), tuple(s["name"] for s in settings["services"]), tuple(files))
    if output != "table":
        print_document(done, output)
    else:
        sys.stdout.write(f"{folder}: {', '.join(files)}; copy it to the machine, and do there what README.md says\n")


def group(
    name: str,
    /,
    *,
    namespace: str = "default",
    port: Annotated[tuple[str, ...], Parameter(negative=())] = ("http=8080",),
    label: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    locality: Text = "",
    discovery_address: str = "127.0.0.1:15010",
    bridge: str = "http://127.0.0.1:15014",
) -> None:
    """Print a WorkloadGroup to begin with: one service on machines that register with the bridge and ask the agent for names.

    Examples:
        isthmus workload group reviews --port http=9080 --discovery-address 10.0.0.2:15010 --bridge http://10.0.0.2:15014

    Args:
        name: The service.
        namespace: Its namespace.
        port: NAME=NUMBER of a port, once for each. The name says the protocol: http, grpc-api, tcp-db.
        label: KEY=VALUE of a label, once for each.
        locality: region/zone/sub_zone of the machines.
        discovery_address: HOST:PORT of the bridge's xDS.
        bridge: The bridge's HTTP address, where they register.

    """
    ports = _pairs("--port", port)
    for number in ports.values():
        if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= 65535):
            raise CommandError(f"--port {number!r}: expected a number from 1 to 65535, as in --port http=8080", 2)
    numbers = {title: int(number) for title, number in ports.items()}
    annotation = {
        "discoveryAddress": discovery_address,
        "registration": {"type": "bridge", "addresses": [bridge]},
        "dns": {"listen": ["127.0.0.15:53"]},
    }
    template: dict[str, Any] = {"ports": numbers} | ({"locality": locality} if locality else {})
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadGroup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "metadata": {
                "labels": {"app": name} | _pairs("--label", label),
                "annotations": {ANNOTATION: _Text(yaml.safe_dump(annotation, sort_keys=False))},
            },
            "template": template,
            "probe": {"tcpSocket": {"port": next(iter(numbers.values()))}, "periodSeconds": 5},
        },
    }
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False)
    try:
        parse(text.encode(), Path(f"WorkloadGroup {name}"), {}, "vm-1")
    except ConfigError as e:
        raise CommandError(str(e), 2) from None
    sys.stdout.write(text)


class _Text(str):
    """Text of several lines, which stands in YAML as it is."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Of YAML for people."""


def _represent_text(dumper: yaml.SafeDumper, text: _Text) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")


_Dumper.add_representer(_Text, _represent_text)


def _settings(
    group: Path, node: str, address: str, token: Path | None, ca: Path | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        load(group)  # for errors that name its lines
        settings = to_settings(read_settings(group), group, os.environ)
        further = {name: read_settings(path) for name, path in ((_SECRET, token), (_AUTHORITY, ca)) if path}
    except ConfigError as e:
        raise CommandError(str(e)) from None
    if settings is None:
        raise CommandError(
            f"{group}: expected a WorkloadGroup or a WorkloadEntry; isthmus workload group NAME prints one. "
            "An agent.yaml needs no bundle"
        )
    if node:
        settings["node"] = node
    if address:
        settings["address"] = address
    if token:
        if settings.get("registration", {}).get("type") not in ("consul", "bridge"):
            raise CommandError(
                f"--token: {group} registers nowhere that takes a token; expected registration of type consul or bridge"
            )
        settings["registration"] = {**settings["registration"], "token": f"${{file:{_SECRET}}}"}
    if ca:
        settings["discoveryTls"] = {**settings.get("discoveryTls", {}), "caFile": _AUTHORITY}
    order = ("discoveryAddress", "discoveryTls", "node", "address", "locality", "services", "registration", "dns")
    kept = {key: settings[key] for key in (*order, *settings) if settings.get(key, "") != ""}
    return kept, further


def _pairs(flag: str, words: tuple[str, ...]) -> dict[str, str]:
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise CommandError(f"{flag} {word!r}: expected two words with = between, such as {flag} http=8080", 2)
    return dict(word.split("=", 1) for word in words)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _check(made: Path) -> None:
    """See that an agent would take it."""
    try:
        load(made / "agent.yaml")
    except ConfigError as e:
        raise CommandError(str(e).replace(f"{made}/", "in the bundle, ")) from None


def _require_own(folder: Path) -> None:
    """Refuse a folder that has anything but an unchanged bundle."""
    if not folder.exists():
        return
    advice = "remove it, or give another folder"
    try:
        manifest = (folder / MANIFEST).read_bytes()
        expected: Mapping[str, str] = written_files(manifest) | {MANIFEST: digest(manifest)}
    except (OSError, ValueError):
        raise CommandError(f"{folder} is there, and is no bundle: {advice}") from None
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or expected.get(path.name) != digest(path.read_bytes()):
            raise CommandError(f"{path} was not written by isthmus workload bundle, or was changed since: {advice}")


app = App(
    name="workload",
    help="Make what a machine needs to join the mesh, from a WorkloadGroup.",
    help_format="plaintext",
    help_epilogue="Examples:\n  isthmus workload group reviews > reviews.yaml\n  isthmus workload bundle reviews.yaml vm-1",
)
for _function in (bundle, group):
    app.command(command(_function))
