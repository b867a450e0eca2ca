"""`isthmus agent` and what belongs to it."""

from __future__ import annotations

import asyncio
import http.client
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from isthmus.agent.agent import Agent, StartError
from isthmus.agent.answers import AgentStatus
from isthmus.agent.duration import parse_duration
from isthmus.agent.envoy import EnvoyError
from isthmus.agent.load import load
from isthmus.agent.run import run
from isthmus.agent.run import stop as stop_agent
from isthmus.agent.wait import parse_conditions, unmet
from isthmus.bridge import logs
from isthmus.cli import address
from isthmus.cli.agent_dns import app as dns_setup_app
from isthmus.cli.asking import get
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Flag
from isthmus.registry.settings import ConfigError

ConfigPath = Annotated[Path, Parameter(alias="-c")]
DEFAULT = Path("agent.yaml")
_LOOK_AGAIN = 0.1
_PATIENCE = 10.0
"""Seconds for an answer."""


def agent(
    *,
    config: ConfigPath = DEFAULT,
    check: Flag = False,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> int:
    """Run the agent of this machine: its Envoy, and the registrations, probes and names of its services.

    SIGTERM asks callers to go elsewhere, waits terminationDrainDuration, and ends Envoy; a second one ends the waiting. An agent
    that is killed leaves Envoy serving, and the next one takes it over. SIGHUP, or a change of the file, reloads the file; one
    with an error changes nothing. Logs, Envoy's too, go to standard error, as JSON unless that is a terminal.

    Examples:
        isthmus agent -c agent.yaml

        isthmus agent -c agent.yaml --check

    Args:
        config: The configuration file (docs/agent.md), or a WorkloadGroup.
        check: Only say whether the file can be used, and there is an Envoy that takes what follows from it.
        log_level: What the agent logs; proxyLogLevel says what Envoy does.

    """
    try:
        loaded = load(config)
        if check:
            version = asyncio.run(Agent(loaded, json_logs=False).check())
            names = ", ".join(s.name for s in loaded.services) or "none"
            sys.stdout.write(f"{config}: can be used; Envoy {version}; services: {names}\n")
            return 0
        terminal = Console(stderr=True)
        logs.configure(log_level, colors=terminal.color_system is not None and not terminal.no_color)
        return asyncio.run(run(config.absolute(), loaded, json_logs=not sys.stderr.isatty()))
    except (ConfigError, StartError, EnvoyError) as e:
        raise CommandError(str(e)) from None


def wait(
    *,
    for_: Annotated[str, Parameter(name="--for")] = "ready",
    timeout: str = "60s",
    agent: Annotated[str, Parameter(name="--agent", env_var="ISTHMUS_AGENT")] = "127.0.0.1:15020",
) -> None:
    """Wait until the agent and its Envoy are as far as something needs them to be that is to start then.

    Examples:
        isthmus agent wait

        isthmus agent wait --for "ready,upstream:reviews>=1,dns" --timeout 60s

    Args:
        for_: Conditions with commas between: ready; registered, once the registry has all services; dns, once the mesh's names
            are answered; upstream:NAME>=COUNT, or just upstream:NAME, for as many healthy instances of a service, by its host
            name or the front of it.
        timeout: How long, such as 90s or 2m.
        agent: The agent's status port.

    """
    try:
        conditions = parse_conditions(for_)
    except ValueError as e:
        raise CommandError(f"--for {e}", 2) from None
    try:
        seconds = parse_duration(timeout)
    except ValueError as e:
        raise CommandError(f"--timeout {timeout!r}: {e}", 2) from None
    address.split("--agent", agent)
    deadline = time.monotonic() + seconds
    while True:
        try:
            missing = list(unmet(conditions, get(agent, "/status", AgentStatus, upstreams="1")))
        except CommandError:
            missing = [f"an agent that answers at {agent}"]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise CommandError(f"not within {timeout}: {', '.join(missing)}")
        time.sleep(_LOOK_AGAIN)


def bootstrap(*, config: ConfigPath = DEFAULT) -> None:
    """Print the bootstrap that the agent gives its Envoy, as JSON.

    Examples:
        isthmus agent bootstrap -c agent.yaml

    Args:
        config: The configuration file.

    """
    try:
        sys.stdout.write(Agent(load(config), json_logs=False).bootstrap() + "\n")
    except (ConfigError, StartError) as e:
        raise CommandError(str(e)) from None


def drain(*, config: ConfigPath = DEFAULT) -> None:
    """Ask callers to go elsewhere, and wait terminationDrainDuration for them. The agent and its Envoy go on.

    For what must be undone while calls still pass, such as interception. An agent that is ended afterwards does not wait again.

    Examples:
        isthmus agent drain -c agent.yaml

    Args:
        config: The configuration file of that agent.

    """
    try:
        loaded = load(config)
    except ConfigError as e:
        raise CommandError(str(e)) from None
    where = f"127.0.0.1:{loaded.status_port}"
    # Not by way of a proxy that the environment names.
    connection = http.client.HTTPConnection(where, timeout=_PATIENCE)
    try:
        connection.request("POST", "/drain")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as e:
        reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
        raise CommandError(f"no answer from an agent at {where}: {reason}") from None
    finally:
        connection.close()
    if status != HTTPStatus.OK:
        raise CommandError(f"what answers at {where} is no agent, or of another version: {status} to POST /drain")
    time.sleep(loaded.termination_drain_duration)


def stop(*, config: ConfigPath = DEFAULT) -> None:
    """End the agent as SIGTERM does, and wait for that; end an Envoy that an agent left behind.

    Examples:
        isthmus agent stop -c agent.yaml

    Args:
        config: The configuration file of that agent.

    """
    try:
        ended = asyncio.run(stop_agent(load(config)))
    except ConfigError as e:
        raise CommandError(str(e)) from None
    sys.stdout.write("ended\n" if ended else "nothing ran\n")


app = command(agent)
for _function in (wait, bootstrap, drain, stop):
    app.command(command(_function))
app.command(dns_setup_app, name="dns-setup")
