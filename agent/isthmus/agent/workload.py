"""Istio's WorkloadGroup and WorkloadEntry in place of an agent.yaml (networking.istio.io, v1alpha3 to v1).

    apiVersion: networking.istio.io/v1
    kind: WorkloadGroup
    metadata: {name: reviews, namespace: bookinfo}
    spec:
      metadata:
        labels: {app: reviews, version: v1}
        annotations: {proxy.istio.io/config: "discoveryAddress: isthmus.example:15010"}
      template: {ports: {http: 9080}, locality: eu/eu-1, weight: 10}
      probe: {httpGet: {path: /health, port: 9080}, periodSeconds: 5}

The service is what the label `app` says, or else the object's name. A port's name says its protocol by Istio's convention. The
annotation `proxy.istio.io/config` holds settings of agent.yaml, as it holds Istio's ProxyConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec

from isthmus.agent.probe.config import PortNumber, Probe
from isthmus.registry.marked_yaml import MarkedYAMLError, parse_marked_yaml
from isthmus.registry.settings import AtError, ConfigError, parse_settings

ANNOTATION = "proxy.istio.io/config"
GROUP = "networking.istio.io/"


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What identifies an object; Kubernetes writes more there, which is left alone."""

    name: str = ""
    namespace: str = "default"
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A WorkloadEntry's specification. `network` and `serviceAccount` are read, and mean nothing yet."""

    address: str = ""
    ports: Mapping[str, PortNumber] = {}
    labels: Mapping[str, str] = {}
    network: str = ""
    locality: str = ""
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 1
    service_account: str = ""


class GroupSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A WorkloadGroup's specification."""

    template: Template
    metadata: Meta = Meta()
    probe: Probe | None = None


class WorkloadGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A WorkloadGroup."""

    api_version: str
    kind: str
    metadata: Meta
    spec: GroupSpec
    status: Any = None


class WorkloadEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A WorkloadEntry."""

    api_version: str
    kind: str
    metadata: Meta
    spec: Template
    status: Any = None


def to_settings(text: bytes, path: Path, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Make the settings of an agent.yaml of such an object, as plain values; None where the text is something else.

    Raises:
        ConfigError: it is one, and says something that is not accepted.

    """
    try:
        document = parse_marked_yaml(text).value
    except MarkedYAMLError:
        return None
    if not isinstance(document, dict) or not str(document.get("apiVersion", "")).startswith(GROUP):
        return None
    if document.get("kind") == "WorkloadEntry":
        entry = parse_settings(text, path, environment, WorkloadEntry, check=_check_entry, lines=True)
        return _to_settings(path, entry.metadata, entry.metadata, entry.spec, None)
    group = parse_settings(text, path, environment, WorkloadGroup, check=_check_group, lines=True)
    return _to_settings(path, group.metadata, group.spec.metadata, group.spec.template, group.spec.probe)


def _to_settings(path: Path, meta: Meta, of_members: Meta, template: Template, probe: Probe | None) -> dict[str, Any]:
    labels = {**meta.labels, **of_members.labels, **template.labels}
    ports = [{"name": name, "port": number} for name, number in template.ports.items()]
    service: dict[str, Any] = {
        "name": labels.get("app") or meta.name,
        "namespace": meta.namespace,
        "labels": labels,
        "weight": template.weight,
        "ports": ports,
    }
    if probe is not None:
        service["probe"] = msgspec.to_builtins(probe)
    settings = _annotated(path, {**meta.annotations, **of_members.annotations}.get(ANNOTATION, ""))
    settings["services"] = [service]
    settings.setdefault("locality", template.locality)
    settings.setdefault("address", template.address)
    return settings


def _annotated(path: Path, text: str) -> dict[str, Any]:
    try:
        value = parse_marked_yaml(text.encode()).value
    except MarkedYAMLError as e:
        raise ConfigError(f"{path}: the annotation {ANNOTATION}: {e.reason}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the annotation {ANNOTATION}: expected settings of agent.yaml")
    return cast("dict[str, Any]", value)


def _check_group(group: WorkloadGroup) -> None:
    if group.kind != "WorkloadGroup":
        raise AtError(["kind"], f"{group.kind!r}: expected WorkloadGroup or WorkloadEntry")
    _check(group.metadata, group.spec.template, ["spec", "template"])


def _check_entry(entry: WorkloadEntry) -> None:
    _check(entry.metadata, entry.spec, ["spec"])


def _check(meta: Meta, template: Template, at: list[str | int]) -> None:
    if not meta.name:
        raise AtError(["metadata"], "name is missing")
    if not template.ports:
        raise AtError(at, "expected ports, the name of each with its number")
