"""`isthmus services` and `isthmus proxy-status`: what a running bridge knows, over its HTTP side."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.text import Text

from isthmus.cli.output import CommandError, Format, print_document, print_table
from isthmus.registry.model import Health, Service
from isthmus.registry.written import to_document
from isthmus.xds.server.status import ProxyStatus

TYPES = ("CDS", "EDS", "LDS", "RDS")
_STYLES = {"SYNCED": "green", "STALE": "yellow", "REJECTED": "bold red", "NOT SENT": "dim"}
_TIMEOUT = 10.0
_MAX_BYTES = 1 << 30

Address = Annotated[str, Parameter(name="--bridge", env_var="ISTHMUS_BRIDGE")]


def register(app: App) -> None:
    """Add the commands."""
    app.command(services)
    app.command(proxy_status)


def services(
    name: str | None = None,
    /,
    *,
    bridge: Address = "127.0.0.1:15014",
    output: Annotated[Format, Parameter(alias="-o")] = "table",
) -> None:
    """List the services that the bridge knows, all registries merged.

    `-o yaml` prints what the file registry reads.

    Examples:
        isthmus services

        isthmus services reviews -o yaml

    Args:
        name: Only services of this name; all its instances are listed.
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    document = _get(bridge, "/debug/catalog")
    found = msgspec.convert(document["services"], list[Service])
    if name is not None:
        found = [s for s in found if s.key.name == name or str(s.key) == name]
        if not found:
            raise CommandError(f"no service {name} in the catalog of {bridge}")
    if output != "table":
        print_document(to_document(found), output)
    elif name is None:
        print_table(
            ("SERVICE", "NAMESPACE", "PORTS", "INSTANCES", "ORIGINS"), [_service_row(s) for s in found], "no services"
        )
    else:
        rows = [_instance_row(s, i) for s in found for i in s.instances]
        print_table(
            ("NAMESPACE", "INSTANCE", "ADDRESS", "PORTS", "HEALTH", "WEIGHT", "ORIGIN", "LABELS"),
            rows,
            f"{name} has no instances",
        )


def proxy_status(
    *,
    bridge: Address = "127.0.0.1:15014",
    output: Annotated[Format, Parameter(alias="-o")] = "table",
) -> None:
    """List the connected proxies and how far each has followed.

    SYNCED: it has acknowledged all that it was sent. STALE: it has not yet. NOT SENT: there was nothing to send.
    REJECTED: it refused the last push; the reason is printed below the table. LAG is the age of the last change, counted from
    the bridge's reading it, when the proxy acknowledged it. The exit status is 3 when a proxy is not in step.

    Examples:
        isthmus proxy-status

        isthmus proxy-status -o json | jq '.[] | select(.types[].state != "SYNCED") | .node'

    Args:
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    proxies = msgspec.convert(_get(bridge, "/debug/proxies"), list[ProxyStatus])
    if output != "table":
        print_document(proxies, output)
    else:
        rows = [_proxy_row(p) for p in proxies]
        print_table(("PROXY", *TYPES, "LAG", "VERSION", "PEER", "CLIENT"), rows, "no proxies are connected")
        for proxy in proxies:
            for status in proxy.types:
                if status.error:
                    print(f"\n{proxy.node} rejected {status.type} {status.sent[:8]}: {status.error}")  # noqa: T201
    if any(t.state in ("STALE", "REJECTED") for p in proxies for t in p.types):
        raise SystemExit(3)


def _service_row(service: Service) -> tuple[str, ...]:
    serving = sum(
        i.health in (Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN) and i.weight > 0 for i in service.instances
    )
    return (
        service.key.name,
        service.key.namespace,
        ", ".join(f"{p.number}/{p.protocol.value}" for p in service.ports),
        f"{serving}/{len(service.instances)}",
        ", ".join(sorted({i.origin for i in service.instances})) or "-",
    )


def _instance_row(service: Service, instance: Any) -> tuple[str | Text, ...]:
    style = {"healthy": "green", "unhealthy": "red"}.get(instance.health.value, "yellow")
    return (
        service.key.namespace,
        instance.id,
        instance.address,
        ", ".join(f"{n}={p}" for n, p in instance.ports.items()),
        Text(instance.health.value, style),
        str(instance.weight),
        instance.origin,
        ", ".join(f"{k}={v}" for k, v in instance.labels.items()),
    )


def _proxy_row(proxy: ProxyStatus) -> tuple[str | Text, ...]:
    by_type = {t.type: t for t in proxy.types}
    states = (by_type[t].state if t in by_type else "NOT SENT" for t in TYPES)
    lags = [t.lag_ms for t in proxy.types if t.lag_ms is not None]
    endpoints = by_type.get("EDS")
    return (
        proxy.node,
        *(Text(state, _STYLES[state]) for state in states),
        f"{max(lags):.0f} ms" if lags else "-",
        endpoints.acked[:8] if endpoints else "-",
        proxy.peer,
        f"{proxy.user_agent} ({proxy.variant})",
    )


def _get(bridge: str, path: str) -> Any:
    """A JSON document of a bridge."""
    url = f"http://{bridge}{path}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            return json.loads(answer.read(_MAX_BYTES))
    except urllib.error.HTTPError as e:
        raise CommandError(f"{url} answered {e.code}") from None
    except (OSError, ValueError) as e:
        reason = getattr(e, "reason", e)
        raise CommandError(
            f"no bridge at {bridge}: {getattr(reason, 'strerror', None) or reason}; say where it is with --bridge HOST:PORT"
        ) from None
