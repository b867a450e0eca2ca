"""`isthmus services` and `isthmus proxy-status`: what a running bridge knows, over its HTTP side."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from cyclopts import Parameter
from rich.text import Text

from isthmus.cli import address
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Output, note, print_document, print_table
from isthmus.registry.model import Health, Instance, Service
from isthmus.registry.written import to_document
from isthmus.xds.server.status import ProxyStatus, ProxyType

_STYLES = {"SYNCED": "green", "STALE": "yellow", "REJECTED": "bold red", "NOT SENT": "dim"}
_HEALTH_STYLES = {Health.HEALTHY: "green", Health.UNHEALTHY: "red"}
_SERVICE_COLUMNS = ("SERVICE", "NAMESPACE", "PORTS", "SERVING", "ORIGINS")
_INSTANCE_COLUMNS = ("NAMESPACE", "INSTANCE", "ADDRESS", "PORTS", "HEALTH", "WEIGHT", "ORIGIN", "LABELS")
_PROXY_COLUMNS = ("PROXY", "TYPE", "STATE", "SENT", "ACKED", "LAG", "PEER", "CLIENT", "LAST NACK")
_TIMEOUT = 10.0
_MAX_BYTES = 1 << 28

T = TypeVar("T")
BridgeAddress = Annotated[str, Parameter(name="--bridge", env_var="ISTHMUS_BRIDGE")]


class Registry(msgspec.Struct, frozen=True):
    """How a registry is doing, as far as a listing says it."""

    synced: bool
    stale_for_s: float | None
    error: str
    doubt: str


class Hold(msgspec.Struct, frozen=True):
    """An instance that is served although its registry does not list it."""

    service: str
    instance: str


class CatalogDocument(msgspec.Struct, frozen=True):
    """What is used of `/debug/catalog`."""

    services: list[Service]
    holds: list[Hold]
    registries: dict[str, Registry]


def services(
    name: str | None = None, /, *, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table"
) -> None:
    """List the services that the bridge knows, all registries merged.

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
    document = _get(bridge, "/debug/catalog", CatalogDocument)
    _note_registries(document.registries)
    found = document.services
    if name is not None:
        found = [s for s in found if name in (s.key.name, str(s.key))]
        if not found:
            raise CommandError(f"no service {name} in the catalog of {bridge}")
    if output != "table":
        print_document(to_document(found), output)
    elif name is None:
        print_table(_SERVICE_COLUMNS, [_service_row(s) for s in found], f"no services in the catalog of {bridge}")
    else:
        held = {(h.service, h.instance) for h in document.holds}
        rows = [_instance_row(s, i, held) for s in found for i in s.instances]
        print_table(_INSTANCE_COLUMNS, rows, f"{name} has no instances")


def proxy_status(
    name: str | None = None, /, *, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table"
) -> None:
    """List the connected proxies and how far each has followed, by type of resource.

    SYNCED: it has acknowledged all that it was sent. STALE: it has not yet. NOT SENT: there was nothing to send.
    REJECTED: it refused the last push, for the reason under LAST NACK; it keeps what it had.

    SENT and ACKED are versions. LAG is the time from the bridge's reading of the last change to the proxy's acknowledgement.

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
    proxies = _get(bridge, "/debug/proxies", list[ProxyStatus])
    if name is not None:
        proxies = [p for p in proxies if p.node == name]
        if not proxies:
            raise CommandError(f"no proxy {name} is connected to {bridge}")
    if output != "table":
        print_document(proxies, output)
    else:
        rows = [_proxy_row(p, t) for p in proxies for t in sorted(p.types, key=lambda t: t.type) or (None,)]
        print_table(_PROXY_COLUMNS, rows, f"no proxies are connected to {bridge}")
    if any(t.state in ("STALE", "REJECTED") for p in proxies for t in p.types):
        raise SystemExit(3)


def _service_row(service: Service) -> tuple[str, ...]:
    serving = sum(i.health not in (Health.UNHEALTHY, Health.DRAINING) and i.weight > 0 for i in service.instances)
    return (
        service.key.name,
        service.key.namespace,
        ", ".join(f"{p.number}/{p.protocol.value}" for p in service.ports),
        f"{serving}/{len(service.instances)}",
        ", ".join(sorted({i.origin for i in service.instances})),
    )


def _instance_row(service: Service, instance: Instance, held: Collection[tuple[str, str]]) -> tuple[str | Text, ...]:
    is_held = (str(service.key), instance.id) in held
    return (
        service.key.namespace,
        instance.id,
        instance.address,
        ", ".join(f"{n}={p}" for n, p in instance.ports.items()),
        Text(
            instance.health.value + (", held" if is_held else ""),
            "yellow" if is_held else _HEALTH_STYLES.get(instance.health, "yellow"),
        ),
        str(instance.weight),
        instance.origin,
        ", ".join(f"{k}={v}" for k, v in instance.labels.items()),
    )


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
        Text(status.error if status else "", "red"),
    )


def _note_registries(registries: Mapping[str, Registry]) -> None:
    for name, registry in registries.items():
        if not registry.synced:
            note(f"registry {name}: not listed yet" + (f": {registry.error}" if registry.error else ""))
        elif registry.stale_for_s is not None:
            note(f"registry {name}: stale for {registry.stale_for_s:.0f} s: {registry.error}")
        elif registry.doubt:
            note(f"registry {name}: in doubt: {registry.doubt}")


def _get(bridge: str, path: str, expected: type[T]) -> T:
    """A JSON document of a bridge."""
    address.split("--bridge", bridge)
    url = f"http://{bridge}{path}"
    # No proxy from the environment: the bridge is a neighbour.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT) as answer:
            content = answer.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise CommandError(f"{url}: the answer is larger than {_MAX_BYTES >> 20} MiB")
        document: Any = json.loads(content)
        return msgspec.convert(document, expected)
    except urllib.error.HTTPError as e:
        e.close()
        raise CommandError(f"{url} answered {e.code}: is that a bridge?") from None
    except msgspec.ValidationError as e:
        raise CommandError(f"{url}: {e}: is that a bridge of another version?") from None
    except ValueError:
        raise CommandError(f"{url} answered with something other than JSON: is that a bridge's HTTP address?") from None
    except (OSError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise CommandError(
            f"no answer from a bridge at {bridge}: {said}; --bridge HOST:PORT says where it is"
        ) from None


services_app = command(services)
proxy_status_app = command(proxy_status)
