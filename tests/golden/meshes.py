"""Golden cases: a mesh written by hand in YAML, and the resources it becomes as text that people can review."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.data.dns.v3.dns_table_pb2 import DnsTable
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from isthmus.registry.model import (
    Catalog,
    Health,
    Instance,
    Locality,
    OutlierDetection,
    Port,
    Protocol,
    Service,
    ServiceKey,
)
from isthmus.xds.group import Kind, Outbound, ProxyGroup
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate import Mesh, MeshSettings, Translation, translate
from isthmus.xds.translate.grpc_view import GrpcView
from isthmus.xds.translate.views import Views

M = TypeVar("M", bound=Message)

CASES = Path(__file__).parent / "cases"
GRPC_CASES = Path(__file__).parent / "grpc"
OUTBOUND_CASES = Path(__file__).parent / "outbound"
MESH_FILE = "mesh.yaml"
CONFLICTS_FILE = "conflicts.yaml"
FILES = {
    TypeUrl.CLUSTER: "clusters.yaml",
    TypeUrl.ENDPOINT: "endpoints.yaml",
    TypeUrl.LISTENER: "listeners.yaml",
    TypeUrl.ROUTE: "routes.yaml",
}
MESSAGES: dict[TypeUrl, type[Message]] = {
    TypeUrl.CLUSTER: Cluster,
    TypeUrl.ENDPOINT: ClusterLoadAssignment,
    TypeUrl.LISTENER: Listener,
    TypeUrl.ROUTE: RouteConfiguration,
    TypeUrl.DNS_TABLE: DnsTable,
}


class _Instance(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    address: str
    ports: dict[str, int]
    health: Health = Health.HEALTHY
    weight: int = 1
    locality: str = ""
    labels: dict[str, str] = {}
    origin: str = "golden"


class _Port(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    number: int
    protocol: Protocol


class _Service(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    ports: list[_Port]
    namespace: str = "default"
    hostnames: list[str] = []
    instances: list[_Instance] = []
    outlier_detection: OutlierDetection | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    services: list[_Service]
    settings: MeshSettings = MeshSettings()
    virtual_ips: dict[str, str] = {}


def load(case: str, cases: Path = CASES) -> Mesh:
    """The mesh of a case. `locality` is written `region/zone/sub_zone`, a virtual IP's key `name.namespace`."""
    file = msgspec.convert(yaml.safe_load((cases / case / MESH_FILE).read_text()), _File)
    services = [_to_service(service) for service in file.services]
    return Mesh(
        Catalog({service.key: service for service in services}),
        file.settings,
        {s.key: file.virtual_ips[str(s.key)] for s in services if str(s.key) in file.virtual_ips},
    )


def _to_service(service: _Service) -> Service:
    return Service(
        ServiceKey(service.namespace, service.name),
        tuple(Port(p.name, p.number, p.protocol) for p in sorted(service.ports, key=lambda p: p.number)),
        tuple(
            Instance(i.id, i.origin, i.address, i.ports, i.health, i.weight, Locality(*i.locality.split("/")), i.labels)
            for i in sorted(service.instances, key=lambda i: i.id)
        ),
        frozenset(service.hostnames),
        outlier_detection=service.outlier_detection,
    )


def decode(resource: Resource, message_type: type[M]) -> M:
    """The message of a resource."""
    message = message_type()
    message.ParseFromString(resource.body)
    return message


def to_files(translation: Translation | GrpcView) -> dict[str, str]:
    """File name to text: one file per type, and one for conflicts if there are any."""
    files = {
        name: _to_yaml(
            [_fields(decode(r, MESSAGES[type_url])) for _, r in sorted(translation.resources[type_url].items())]
        )
        for type_url, name in FILES.items()
    }
    if translation.conflicts:
        files[CONFLICTS_FILE] = _to_yaml(msgspec.to_builtins(translation.conflicts))
    return files


def to_outbound_files(mesh: Mesh) -> dict[str, str]:
    """What groups of proxies have beside or in place of what all have, and the names that resolve to it."""
    views = Views(translate(mesh))
    plain = views.envoy.of_type(TypeUrl.LISTENER)
    files: dict[str, str] = {}
    for file, group, type_url in _OF_GROUPS:
        found = views.make(group).of_type(type_url)
        shown = [r for name, r in sorted(found.items()) if type_url is not TypeUrl.LISTENER or name not in plain]
        files[file] = _to_yaml([_fields(decode(r, MESSAGES[type_url])) for r in shown])
    if views.conflicts:
        files[CONFLICTS_FILE] = _to_yaml(msgspec.to_builtins(views.conflicts))
    return files


_OF_GROUPS = (
    ("addresses.yaml", ProxyGroup(Kind.ENVOY, Outbound.ADDRESSES), TypeUrl.LISTENER),
    ("captured.yaml", ProxyGroup(Kind.ENVOY, Outbound.CAPTURED), TypeUrl.LISTENER),
    ("routes.yaml", ProxyGroup(Kind.ENVOY, Outbound.CAPTURED), TypeUrl.ROUTE),
    ("names.yaml", ProxyGroup(Kind.AGENT), TypeUrl.DNS_TABLE),
)


def _fields(message: Message) -> object:
    return json.loads(MessageToJson(message, preserving_proto_field_name=True))


def _to_yaml(value: object) -> str:
    text: str = yaml.safe_dump(value, sort_keys=True, width=120)
    return text
