"""`isthmus services` and `isthmus proxy-status`: what a running bridge knows, over its HTTP side."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from rich.text import Text

from isthmus.bridge.answers import Held, Leaving
from isthmus.cli.asking import BridgeAddress, get
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Output, duration, note, print_document, print_table
from isthmus.registry.model import Health, Instance, Service
from isthmus.registry.written import to_document
from isthmus.xds.server.status import ProxyStatus, ProxyType

_STYLES = {"SYNCED": "green", "STALE": "yellow", "REJECTED": "bold red", "NOT SENT": "dim"}
_HEALTH_STYLES = {Health.HEALTHY: "green", Health.UNHEALTHY: "red"}
_SERVICE_COLUMNS = ("SERVICE", "NAMESPACE", "PORTS", "SERVING", "ORIGINS", "REMARKS")
_INSTANCE_COLUMNS = ("NAMESPACE", "INSTANCE", "ADDRESS", "PORTS", "HEALTH", "WEIGHT", "ORIGIN", "LABELS")
_PROXY_COLUMNS = ("PROXY", "TYPE", "STATE", "SENT", "ACKED", "LAG", "PEER", "CLIENT", "OUTBOUND", "LAST NACK")

_Remarks = Mapping[tuple[str, str, str], str]
"""Why an instance is still there, by service, origin and its id there."""


class Registry(msgspec.Struct, frozen=True):
    """How a registry is doing, as far as a listing says it."""

    synced: bool
    stale_for_s: float | None
    error: str
    doubt: str


class CatalogDocument(msgspec.Struct, frozen=True):
    """What is used of `/debug/catalog`."""

    services: list[Service]
    holds: list[Held]
    leaving: list[Leaving]
    registries: dict[str, Registry]


def services(
    name: str | None = None, /, *, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table"
) -> None:
    """List the services that the bridge knows, all registries merged.

    SERVING is how many of the instances get requests. A held instance does, though its registry no longer lists it; a
    draining one finishes what it has.

    With -o yaml or json the output is what the file registry reads.

    Examples:
        isthmus services

        isthmus services reviews

        isthmus services reviews -o yaml > services/reviews.yaml

    Args:
        name: Only services of this name (or name.namespace), with all their instances.
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    document = get(bridge, "/debug/catalog", CatalogDocument)
    _note_registries(document.registries)
    found = document.services
    if name is not None:
        found = [s for s in found if name in (s.key.name, str(s.key))]
        if not found:
            raise CommandError(f"no service {name} in the catalog of {bridge}")
    remarks = {(h.service, h.origin, h.instance): "held" for h in document.holds}
    remarks |= {(x.service, x.origin, x.instance): f"gone in {duration(x.ends_in_s)}" for x in document.leaving}
    if output != "table":
        print_document(to_document(found), output)
    elif name is None:
        rows = [_service_row(s, remarks) for s in found]
        print_table(_SERVICE_COLUMNS, rows, f"no services in the catalog of {bridge}")
    else:
        rows = [_instance_row(s, i, remarks) for s in found for i in s.instances]
        print_table(_INSTANCE_COLUMNS, rows, f"{name} has no instances")


def proxy_status(
    name: str | None = None, /, *, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table"
) -> None:
    """List the connected proxies and how far each has followed, by type of resource.

    SYNCED: it has acknowledged all that it was sent. STALE: it has not yet. NOT SENT: there was nothing to send.
    REJECTED: it refused the last push, for the reason under LAST NACK; it keeps what it had.

    SENT and ACKED are versions. LAG is the time from the bridge's reading of the last change to the proxy's acknowledgement.
    OUTBOUND says which listeners an Envoy has for what leaves the workload, as OUTBOUND in its node's metadata asks for.

    The exit status is 3 when a proxy that is listed is STALE or REJECTED.

    Examples:
        isthmus proxy-status

        isthmus proxy-status | grep -v SYNCED

        isthmus proxy-status -o json | jq -r '.[] | select(any(.types[]; .state != "SYNCED")) | .node'

    Args:
        name: Only proxies of this name.
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    proxies = get(bridge, "/debug/proxies", list[ProxyStatus])
    if name is not None:
        proxies = [p for p in proxies if p.node == name]
        if not proxies:
            raise CommandError(f"no proxy {name} is connected to {bridge}")
    if output != "table":
        print_document(proxies, output)
    else:
        rows = [_proxy_row(p, t) for p in proxies for t in sorted(p.types, key=lambda t: t.type) or (None,)]
        print_table(_PROXY_COLUMNS, rows, f"no proxies are connected to {bridge}")
        for proxy in proxies:
            if proxy.remark:
                note(f"proxy {proxy.node}: {proxy.remark}")
    if any(t.state in ("STALE", "REJECTED") for p in proxies for t in p.types):
        raise SystemExit(3)


def _service_row(service: Service, remarks: _Remarks) -> tuple[str | Text, ...]:
    draining = sum(i.health is Health.DRAINING for i in service.instances)
    held = sum(_remark(service, i, remarks) == "held" for i in service.instances)
    serving = sum(i.health not in (Health.UNHEALTHY, Health.DRAINING) and i.weight > 0 for i in service.instances)
    return (
        service.key.name,
        service.key.namespace,
        ", ".join(f"{p.number}/{p.protocol.value}" for p in service.ports),
        Text(f"{serving}/{len(service.instances)}", "" if serving else "red"),
        ", ".join(sorted({i.origin for i in service.instances})),
        Text(", ".join(f"{n} {what}" for n, what in ((held, "held"), (draining, "draining")) if n), "yellow"),
    )


def _instance_row(service: Service, instance: Instance, remarks: _Remarks) -> tuple[str | Text, ...]:
    remark = _remark(service, instance, remarks)
    return (
        service.key.namespace,
        instance.id,
        instance.address,
        ", ".join(f"{n}={p}" for n, p in instance.ports.items()),
        Text(
            ", ".join(filter(None, (instance.health.value, remark))),
            "yellow" if remark else _HEALTH_STYLES.get(instance.health, "yellow"),
        ),
        str(instance.weight),
        instance.origin,
        ", ".join(f"{k}={v}" for k, v in instance.labels.items()),
    )


def _remark(service: Service, instance: Instance, remarks: _Remarks) -> str:
    # Where two registries use one id, merging puts the registry's name before the second.
    own_id = instance.id.removeprefix(f"{instance.origin}/")
    at = [(str(service.key), instance.origin, i) for i in (instance.id, own_id)]
    return next((remarks[a] for a in at if a in remarks), "")


def _proxy_row(proxy: ProxyStatus, status: ProxyType | None) -> tuple[str | Text, ...]:
    """`status` is None as long as the proxy waits for the bridge to become ready."""
    state = status.state if status else "NOT SENT"
    return (
        proxy.node,
        status.type if status else "",
        Text(state, _STYLES.get(state, "")),
        status.sent[:8] if status else "",
        status.acked[:8] if status else "",
        "" if status is None or status.lag_ms is None else f"{status.lag_ms:.0f} ms",
        proxy.peer,
        f"{proxy.user_agent} ({proxy.variant})".lstrip(),
        Text(proxy.outbound, "yellow" if proxy.remark else ""),
        Text(status.error if status else "", "red"),
    )


def _note_registries(registries: Mapping[str, Registry]) -> None:
    for name, registry in registries.items():
        if not registry.synced:
            note(f"registry {name}: not listed yet" + (f": {registry.error}" if registry.error else ""))
        elif registry.stale_for_s is not None:
            note(f"registry {name}: stale for {duration(registry.stale_for_s)}: {registry.error}")
        elif registry.doubt:
            note(f"registry {name}: in doubt: {registry.doubt}")


services_app = command(services)
proxy_status_app = command(proxy_status)
