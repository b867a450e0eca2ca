"""`isthmus agent dns-setup`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from isthmus.agent.config import AgentConfig
from isthmus.agent.dns.config import DnsConfig, DnsConfigError, check, listening
from isthmus.agent.dns.setup import Found, Setup, SetupError
from isthmus.agent.dns.snippets import Mode, Place, SnippetError, resolved_servers, to_snippet
from isthmus.agent.load import load
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Flag, note
from isthmus.registry.settings import ConfigError


def dns_setup(
    *,
    mode: Literal["resolv.conf", "systemd-resolved", "dnsmasq"],
    print_: Annotated[Flag, Parameter(name="--print")] = False,
    write: Flag = False,
    undo: Flag = False,
    config: Annotated[Path | None, Parameter(alias="-c")] = None,
    listen: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    domain: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    root: Path = Path("/"),
) -> None:
    """Make programs on this machine ask the agent's DNS, and undo it.

    Prints what would be written, unless told to write it. Undoing puts back what was there, byte for byte; it is refused when
    somebody else has changed the file since.

    Examples:
        isthmus agent dns-setup --mode systemd-resolved

        isthmus agent dns-setup --mode resolv.conf --listen 127.0.0.15:53 --write

        isthmus agent dns-setup --mode resolv.conf --undo

    Args:
        mode: Which file is written: /etc/resolv.conf, or one for systemd-resolved or dnsmasq beside its own.
        print_: Print the file (the default).
        write: Write the file, and keep what was there.
        undo: Put back what was there.
        config: The agent's configuration, for its DNS's addresses and domains.
        listen: Where the agent's DNS listens, in place of what the configuration says.
        domain: A further domain in which services have names, such as service.consul; for systemd-resolved and dnsmasq, which
            pass on only some domains.
        root: The directory that is / on the machine that is set up.

    """
    if print_ + write + undo > 1:
        raise CommandError("--print, --write and --undo exclude each other: give one of them", 2)
    whole, section = _read(config, listen)
    chosen = Mode(mode)
    path = root / chosen.path
    record = root / whole.config_path.lstrip("/") / "dns-setup" / f"{mode}.json"
    setup = Setup(path, record)
    place = Place(listening(section), section.domains, domain, any((root / "lib").glob("ld-musl-*")))

    if chosen is Mode.SYSTEMD_RESOLVED and not undo and not section.upstream:
        _refuse_others(path)

    def to_content(found: Found) -> bytes:
        return to_snippet(chosen, place, _content(found, path, root))

    try:
        if undo:
            done = setup.undo()
            said = f"{path}: as it was before" if done else f"{path}: was not written by dns-setup, nothing to undo"
        elif write:
            done = setup.write(to_content)
            said = f"{path}: written; what was there is kept in {record}" if done else f"{path}: is already so"
        else:
            sys.stdout.write(to_content(setup.before()).decode("utf-8", "replace"))
            note(f"this would be {path}; add --write to write it")
            return
    except (SetupError, SnippetError) as e:
        raise CommandError(str(e)) from None
    sys.stdout.write(said + "\n")
    if done and chosen.afterwards and root == Path("/"):
        note(f"to make it count: {chosen.afterwards}")


def _read(config: Path | None, listen: tuple[str, ...]) -> tuple[AgentConfig, DnsConfig]:
    try:
        whole = load(config) if config is not None else AgentConfig()
    except ConfigError as e:
        raise CommandError(str(e)) from None
    if config is not None and whole.dns is None and not listen:
        raise CommandError(f"by {config} the agent answers no names: write `dns: {{}}` in it")
    section = whole.dns or DnsConfig()
    if listen:
        section = msgspec.structs.replace(section, listen=listen)
        try:
            check(section)
        except DnsConfigError as e:
            raise CommandError(f"--listen: {e.reason}", 2) from None
    return whole, section


def _refuse_others(path: Path) -> None:
    """Servers in systemd-resolved's own configuration give way to the agent's DNS, which then has to know them."""
    directory = path.parent
    for file in (directory.with_suffix(""), *sorted(directory.glob("*.conf"))):
        with contextlib.suppress(OSError):
            servers = [] if file == path else resolved_servers(file.read_bytes())
            if servers:
                raise CommandError(
                    f"{file} names DNS servers, which systemd-resolved would ask for the mesh's names, too; they will be used no "
                    f"more: name them as `upstream` in the agent's configuration ({', '.join(servers)}), and give it with "
                    "--config"
                )


def _content(found: Found, path: Path, root: Path) -> bytes:
    """What programs read there; a link's way begins at the root that is set up."""
    if found.link is None:
        return found.content or b""
    target = root / found.link.lstrip("/") if found.link.startswith("/") else path.parent / found.link
    try:
        with target.open("rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""


app = command(dns_setup)
