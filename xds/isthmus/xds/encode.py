"""Responses as bytes: a resource's encoded body is copied into the response, never encoded again.

Protobuf's length-delimited fields may be joined by hand, so a response of a thousand clusters of which one changed is a join of
bytes that exist already. Field numbers: envoy/service/discovery/v3/discovery.proto and google/protobuf/any.proto.
"""

from __future__ import annotations

from isthmus.xds.protocol.response import Response
from isthmus.xds.resource import Resource

_LENGTH_DELIMITED = 2


def to_discovery_response(response: Response, control_plane: bytes) -> bytes:
    """A state-of-the-world response. `control_plane` is an encoded ControlPlane message, empty for none."""
    out = [_field(1, response.version.encode())]
    type_field = _field(1, response.type_url.encode())
    for resource in response.resources:
        out += _any(2, type_field, resource)
    out += (_field(4, response.type_url.encode()), _field(5, response.nonce.encode()))
    if control_plane:
        out.append(_field(6, control_plane))
    return b"".join(out)


def to_delta_discovery_response(response: Response, control_plane: bytes) -> bytes:
    """A delta response. `control_plane` is an encoded ControlPlane message, empty for none."""
    out = [_field(1, response.version.encode())]
    type_field = _field(1, response.type_url.encode())
    for resource in response.resources:
        # Resource { string version = 1; Any resource = 2; string name = 3; }
        head = _field(1, resource.version.encode()) + _field(3, resource.name.encode())
        body = _any(2, type_field, resource)
        out += (_header(2, len(head) + sum(map(len, body))), head, *body)
    out += (_field(4, response.type_url.encode()), _field(5, response.nonce.encode()))
    out += (_field(6, name.encode()) for name in response.removed)
    if control_plane:
        out.append(_field(7, control_plane))
    return b"".join(out)


def _any(number: int, type_field: bytes, resource: Resource) -> tuple[bytes, bytes, bytes, bytes]:
    value = _header(2, len(resource.body))
    return _header(number, len(type_field) + len(value) + len(resource.body)), type_field, value, resource.body


def _field(number: int, value: bytes) -> bytes:
    return _header(number, len(value)) + value


def _header(number: int, length: int) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
