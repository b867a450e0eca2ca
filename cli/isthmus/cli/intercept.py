"""`isthmus intercept`, with `confirm`, `clean` and `status`: the flags are those of Istio's istio-iptables."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from cyclopts import Parameter

from isthmus.agent.duration import Duration, parse_duration
from isthmus.agent.intercept.apply import Interceptor, plan_for
from isthmus.agent.intercept.chains import Table, to_tables
from isthmus.agent.intercept.config import BackendChoice, Intercept, InterceptConfigError, Mode
from isthmus.agent.intercept.iptables import to_restore
from isthmus.agent.intercept.nftables import to_nft
from isthmus.agent.intercept.plan import Family, Plan, describe
from isthmus.agent.intercept.programs import InterceptError
from isthmus.agent.intercept.routes import to_commands
from isthmus.agent.intercept.state import DEFAULT_DIRECTORY
from isthmus.agent.interception import to_intercept
from isthmus.agent.load import load
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Flag, note
from isthmus.registry.settings import ConfigError

Text = str | None
StateDirectory = Annotated[Path, Parameter(name="--state-dir")]
Form = Literal["plan", "json", "iptables", "nft"]
_T = TypeVar("_T")
_OWN = (
    "config",
    "rollback_after",
    "dry_run",
    "run_validation",
    "cleanup_only",
    "native_nftables",
    "output",
    "state_dir",
)


def _short(letter: str) -> Parameter:
    return Parameter(alias=f"-{letter}")


def intercept(
    *,
    config: Path | None = None,
    envoy_port: Annotated[int | None, _short("p")] = None,
    inbound_capture_port: Annotated[int | None, _short("z")] = None,
    proxy_uid: Annotated[Text, _short("u")] = None,
    proxy_gid: Annotated[Text, _short("g")] = None,
    istio_inbound_interception_mode: Annotated[Text, _short("m")] = None,
    istio_inbound_tproxy_mark: Annotated[int | None, _short("t")] = None,
    istio_inbound_tproxy_route_table: Annotated[int | None, _short("r")] = None,
    istio_inbound_ports: Annotated[Text, _short("b")] = None,
    istio_local_exclude_ports: Annotated[Text, _short("d")] = None,
    istio_service_cidr: Annotated[Text, _short("i")] = None,
    istio_service_exclude_cidr: Annotated[Text, _short("x")] = None,
    istio_local_outbound_ports_exclude: Annotated[Text, _short("o")] = None,
    istio_outbound_ports: Annotated[Text, _short("q")] = None,
    kube_virt_interfaces: Annotated[Text, _short("k")] = None,
    istio_exclude_interfaces: Annotated[Text, _short("c")] = None,
    outbound_owner_users: Text = None,
    outbound_owner_users_exclude: Text = None,
    outbound_owner_groups: Text = None,
    outbound_owner_groups_exclude: Text = None,
    virtual_ips: Text = None,
    redirect_dns: bool | None = None,
    capture_all_dns: bool | None = None,
    dns_capture_port: int | None = None,
    drop_invalid: bool | None = None,
    dual_stack: bool | None = None,
    backend: Text = None,
    native_nftables: Flag = False,
    iptables_probe_port: int | None = None,
    probe_timeout: Text = None,
    rollback_after: Text = None,
    dry_run: Annotated[Flag, _short("n")] = False,
    run_validation: Flag = False,
    cleanup_only: Flag = False,
    output: Form = "plan",
    state_dir: StateDirectory = DEFAULT_DIRECTORY,
) -> int:
    """Lead connections of this host to its Envoy, by rules in the kernel. Flags have the names that they have in Istio.

    The rules are put in place at once, and a connection is made to see that they work; otherwise they are taken away again.
    Nothing that is connected already is touched, and no rule of another program. With --rollback-after they stay only if
    `isthmus intercept confirm` is said in time: over SSH, say it from a second session. Lists are separated by commas.

    Examples:
        isthmus intercept -u isthmus -b 9080 -i '*' --dry-run

        isthmus intercept -u isthmus -b '*' -d 8080 -i 10.0.0.0/8 -x 10.9.0.0/16 --rollback-after 60s

        isthmus intercept --config agent.yaml -u isthmus

    Args:
        config: Take what is not given here from an agent.yaml.
        envoy_port: Envoy's port for outbound connections; 15001 by default.
        inbound_capture_port: Envoy's port for inbound connections; 15006 by default.
        proxy_uid: Users as which Envoy and the agent run. Their connections are not captured.
        proxy_gid: Likewise, groups.
        istio_inbound_interception_mode: REDIRECT, the default, or TPROXY, which keeps the caller's address.
        istio_inbound_tproxy_mark: The mark of TPROXY's packets; 1337 by default.
        istio_inbound_tproxy_route_table: The routing table for them; 133 by default.
        istio_inbound_ports: Local ports to capture, or '*'. Never 22, and never 15000 to 15099.
        istio_local_exclude_ports: Local ports to leave alone.
        istio_service_cidr: Destinations to capture, or '*'.
        istio_service_exclude_cidr: Destinations to leave alone.
        istio_local_outbound_ports_exclude: Destination ports to leave alone.
        istio_outbound_ports: Destination ports to capture whatever the address.
        kube_virt_interfaces: Interfaces of containers or virtual machines, such as docker0: what comes in there is outbound.
        istio_exclude_interfaces: Interfaces to leave alone.
        outbound_owner_users: Users whose connections to capture; all by default.
        outbound_owner_users_exclude: Users whose connections to leave alone.
        outbound_owner_groups: Groups whose connections to capture.
        outbound_owner_groups_exclude: Groups whose connections to leave alone.
        virtual_ips: The mesh's own addresses, captured with outbound connections; 127.64.0.0/10 by default.
        redirect_dns: Capture questions for names to the servers in /etc/resolv.conf.
        capture_all_dns: Capture questions for names to any server.
        dns_capture_port: The port of the agent's DNS; 15053 by default.
        drop_invalid: Drop TCP packets that belong to no connection.
        dual_stack: IPv6 too, or else fail; by default where this host has it.
        backend: By what to do it: nft, iptables-nft, iptables-legacy, or auto for what is in use on this host.
        native_nftables: The same as --backend nft.
        iptables_probe_port: To which port the connection is made that shows whether it works; 15002 by default.
        probe_timeout: For how long to wait for it; 5s by default.
        rollback_after: Undo everything after this time, unless it is confirmed.
        dry_run: Only show what would be done. Needs no rights.
        run_validation: Fail, and undo, also when no connection could be made that shows whether it works.
        cleanup_only: The same as `isthmus intercept clean`.
        output: How to show it: as sentences, as JSON, or as text for iptables-restore or nft.
        state_dir: Where it is remembered what was done.

    """
    given = {name: value for name, value in locals().items() if value is not None and name not in _OWN}
    if cleanup_only:
        return clean(state_dir=state_dir)
    if native_nftables:
        given["backend"] = "nft"
    # Not as types of the parameters: to cyclopts, "none" is then a None.
    for name, choices in (("istio_inbound_interception_mode", get_args(Mode)), ("backend", get_args(BackendChoice))):
        if name in given and given[name] not in choices:
            expected = " or ".join(choices)
            raise CommandError(f"--{name.replace('_', '-')}: expected {expected}, got {given[name]!r}", 2)
    wanted = _configuration(config, given, probe_timeout, rollback_after)
    try:
        plan = plan_for(wanted)
    except InterceptConfigError as e:
        flag = f"--{e.key.replace('_', '-')}: " if e.key else ""
        raise CommandError(f"{flag}{e.reason}", 2) from None
    if dry_run:
        sys.stdout.write(_shown(plan, output))
        return 0
    return _run(_apply(wanted, state_dir, output, keep=rollback_after is None, strict=run_validation))


def confirm(*, state_dir: StateDirectory = DEFAULT_DIRECTORY) -> None:
    """Keep what `isthmus intercept --rollback-after` has put in place.

    Examples:
        isthmus intercept confirm

    Args:
        state_dir: Where it is remembered what was done.

    """
    _run(Interceptor(Intercept(), state_dir).confirm())
    note("kept")


def clean(*, state_dir: StateDirectory = DEFAULT_DIRECTORY) -> int:
    """Remove every rule and route of ours from the kernel, also what a run left that was killed. Nothing of other programs.

    Examples:
        isthmus intercept clean

    Args:
        state_dir: Where it is remembered what was done.

    """
    removed = _run(Interceptor(Intercept(), state_dir).clean())
    note("removed all rules of ours" if removed else "there was no rule of ours")
    return 0


def status(*, state_dir: StateDirectory = DEFAULT_DIRECTORY) -> int:
    """Say what is captured on this host, and whether its rules are still there; exit status 3 if they are not, or not confirmed.

    Examples:
        isthmus intercept status

    Args:
        state_dir: Where it is remembered what was done.

    """
    interceptor = Interceptor(Intercept(), state_dir)
    applied = interceptor.applied()
    if applied is None:
        note("nothing is captured on this host")
        return 0
    problems = _run(interceptor.check())
    sys.stdout.write(f"by {applied.backend}\n{_shown(applied.plan, 'plan')}")
    if not interceptor.is_confirmed():
        problems = [*problems, "waits for confirmation: isthmus intercept confirm"]
    for problem in problems:
        note(problem)
    return 3 if problems else 0


async def _apply(config: Intercept, directory: Path, output: Form, *, keep: bool, strict: bool) -> int:
    interceptor = Interceptor(config, directory)
    applied = await interceptor.apply(must_verify=strict)
    if keep:
        await interceptor.confirm()
    sys.stdout.write(_shown(applied.plan, output))
    for problem in interceptor.problems():
        note(problem)
    if not keep:
        note(f"rolled back in {config.rollback_after}, unless you say: isthmus intercept confirm")
    return 0


def _configuration(path: Path | None, given: dict[str, Any], timeout: Text, rollback_after: Text) -> Intercept:
    given.pop("probe_timeout", None)
    durations: dict[str, Duration] = {}
    for name, text in (("probe_timeout", timeout), ("rollback_after", rollback_after)):
        try:
            durations |= {name: parse_duration(text)} if text is not None else {}
        except ValueError as e:
            raise CommandError(f"--{name.replace('_', '-')}: {e}, got {text!r}", 2) from None
    base = Intercept()
    if path:
        try:
            loaded = load(path)
        except ConfigError as e:
            raise CommandError(str(e)) from None
        if loaded.interception_mode == "NONE":
            raise CommandError(f"{path}: interceptionMode is NONE, so its Envoy takes nothing that is captured")
        base = to_intercept(loaded)
    return msgspec.structs.replace(base, **given, **durations)


def _shown(plan: Plan, output: Form) -> str:
    tables: dict[Family, tuple[Table, ...]] = {family: to_tables(plan, family) for family in plan.families}
    routes = [f"ip {' '.join(words)}" for family in plan.families for words in to_commands(plan, family, (), ())]
    commented = "".join(f"# {line}\n" for line in routes)
    if output == "json":
        return msgspec.json.format(msgspec.json.encode({"plan": plan, "routes": routes})).decode() + "\n"
    if output == "nft":
        return commented + to_nft(tables)
    if output == "iptables":
        return commented + "".join(f"# {family}\n{to_restore(each, '')}" for family, each in tables.items())
    return "".join(f"{line}\n" for line in (*describe(plan), *routes))


def _run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(coroutine)
    except (InterceptError, InterceptConfigError) as e:
        raise CommandError(str(e)) from None


app = command(intercept)
for subcommand in (confirm, clean, status):
    app.command(command(subcommand))
