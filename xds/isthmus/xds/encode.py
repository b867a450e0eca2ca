"""Responses as bytes: joins of what each resource was encoded to once, never encoded again.

Field numbers: envoy/service/discovery/v3/discovery.proto.
"""

from __future__ import annotations

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import ResourceError, ResourceName
from google.rpc.status_pb2 import Status

from isthmus.xds.protocol.response import Response
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.wire import field, header

_NOT_FOUND = 5
"""google.rpc.Code"""


def to_discovery_response(response: Response, control_plane: bytes) -> bytes:
    """A state-of-the-world response. `control_plane` is an encoded ControlPlane message, empty for none.

    Names that do not exist become empty assignments if they are of endpoints, and errors otherwise.
    """
    out = [field(1, response.version.encode())]
    out += [r.field for r in response.resources]
    if response.type_url == TypeUrl.ENDPOINT:
        out += (_no_endpoints(name).field for name in response.removed)
    out += (field(4, response.type_url.encode()), field(5, response.nonce.encode()))
    if control_plane:
        out.append(field(6, control_plane))
    if response.type_url != TypeUrl.ENDPOINT:
        out += (field(7, _not_found(response.type_url, name)) for name in response.removed)
    return b"".join(out)


def to_delta_discovery_response(response: Response, control_plane: bytes) -> bytes:
    """A delta response. `control_plane` is an encoded ControlPlane message, empty for none."""
    out = [field(1, response.version.encode())]
    on_demand = response.type_url == TypeUrl.VIRTUAL_HOST
    for resource in response.resources:
        out += _delta_resource(resource, alias=on_demand)
    out += (field(4, response.type_url.encode()), field(5, response.nonce.encode()))
    for name in response.removed:
        if on_demand and name in response.unknown:
            # An Envoy that holds a request back until it knows a host lets it go when the alias comes without a virtual host.
            out.append(field(2, field(3, name.encode()), field(4, name.encode())))
        else:
            out.append(field(6, name.encode()))
    if control_plane:
        out.append(field(7, control_plane))
    return b"".join(out)


def _delta_resource(resource: Resource, *, alias: bool) -> tuple[bytes, bytes, bytes]:
    # Resource { string version = 1; Any resource = 2; string name = 3; repeated string aliases = 4; }
    name = resource.name.encode()
    head = field(1, resource.version.encode()) + field(3, name) + (field(4, name) if alias else b"")
    return header(2, len(head) + len(resource.field)), head, resource.field


def _no_endpoints(name: str) -> Resource:
    return Resource.of(TypeUrl.ENDPOINT, name, ClusterLoadAssignment(cluster_name=name))


def _not_found(type_url: str, name: str) -> bytes:
    kind = type_url[type_url.rfind(".") + 1 :]
    text = f'isthmus has no {kind} "{name}": no service of the mesh goes by that name; `isthmus services` lists them'
    error = ResourceError(resource_name=ResourceName(name=name), error_detail=Status(code=_NOT_FOUND, message=text))
    return error.SerializeToString()
