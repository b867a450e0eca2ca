"""envoy-control's tags, registrator's attributes, Spring Cloud's metadata. Pure."""

from __future__ import annotations

import re

from isthmus.registry.conventions.said import MorePort, Sheet, whole
from isthmus.registry.model import Protocol

ENVOY_CONTROL_WEIGHT = 50
"""What envoy-control takes for an instance without a tag (`envoy-control.source.consul.tags.default-weight`)."""

_REGISTRATOR_ID = re.compile(r".+?:[a-zA-Z0-9][a-zA-Z0-9_.-]*:(?P<port>\d{1,5})(?P<udp>:udp)?")
"""`<host>:<container>:<port inside>[:udp]` (gliderlabs/registrator, bridge/bridge.go)."""

_GRPC_PORTS = ("gRPC_port", "gRPC.port")
"""What grpc-spring-boot-starter calls the port of its server, now and formerly."""


def envoy_control(sheet: Sheet) -> None:
    """`weight:50` and `canary` (allegro/envoy-control, ConsulServiceMapper): weight and labels."""
    for tag in list(sheet.tags):
        key, colon, text = tag.partition(":")
        if key == "weight" and colon:
            if (weight := whole(text)) is not None:
                sheet.tags.remove(tag)
                sheet.labels.setdefault("weight", text)
                text = str(max(1, weight))  # there, no instance has less
            sheet.says_weight(f"tag {tag}", text, ENVOY_CONTROL_WEIGHT)
        elif tag == "canary":
            sheet.tags.remove(tag)
            sheet.labels["canary"] = "true"


def registrator(sheet: Sheet) -> None:
    """The port inside the container, from the id; UDP left out; attributes without those that describe checks."""
    found = _REGISTRATOR_ID.fullmatch(sheet.id)
    if found and 1 <= int(found["port"]) <= 65535:
        sheet.exposed = sheet.exposed or int(found["port"])
    if "udp" in sheet.tags or (found and found["udp"]):
        sheet.unusable = "registrator says that its port is a UDP port; only TCP can be carried"
    for key in [k for k in sheet.meta if k.startswith("check_")]:
        del sheet.meta[key]


def spring(sheet: Sheet) -> None:
    """`secure`, `weight`, `zone` and `gRPC_port`, in the metadata or, as Spring Cloud Consul wrote them before 3.0, as tags."""
    key = next((key for key in _GRPC_PORTS if sheet.spoken(key)), "")
    number = sheet.port_in(key, sheet.spoken(key)) if key else 0
    if number and number == sheet.port:
        sheet.says_protocol(Protocol.GRPC)  # it has no other server
    elif number:
        sheet.more.append(MorePort("grpc", number, Protocol.GRPC))
    secure = sheet.spoken("secure").lower()
    if secure == "true":
        sheet.says_protocol(Protocol.HTTPS)
    elif secure not in ("", "false"):
        sheet.remark("secure", f"{secure[:100]!r} is neither true nor false; not followed")
    if weight := sheet.spoken("weight"):
        # Spring Cloud LoadBalancer takes 1 for what is not positive.
        sheet.says_weight("weight", "1" if weight.startswith("-") or whole(weight) == 0 else weight)
    sheet.zone = sheet.zone or sheet.spoken("zone")
