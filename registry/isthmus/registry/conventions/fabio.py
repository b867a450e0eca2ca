"""Fabio's `urlprefix-` tags, as far as they say how to reach the instance. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isthmus.registry.conventions.said import Sheet, clip
from isthmus.registry.model import Protocol

_PREFIX = "urlprefix-"
_PROTOCOLS: Mapping[str, Protocol] = {
    "http": Protocol.HTTP,
    "https": Protocol.HTTPS,
    "grpc": Protocol.GRPC,
    "grpcs": Protocol.TLS,
    "tcp": Protocol.TCP,
    "tcp+sni": Protocol.TLS,
}
"""`proto=` of a route; without it Fabio speaks HTTP (registry/consul/routecmd.go)."""


def fabio(sheet: Sheet) -> None:
    """`urlprefix-host/path proto=grpc weight=0.2`: protocol and share. The routes themselves are not read."""
    protocols: list[Protocol] = []
    shares: set[float] = set()
    for tag in list(sheet.tags):
        if not tag.strip().startswith(_PREFIX):
            continue
        sheet.tags.remove(tag)
        sheet.plain.add(tag)
        options: dict[str, str] = {key: value for key, _, value in (o.partition("=") for o in tag.split()[1:])}
        if "redirect" in options:
            continue  # nothing is sent to the instance
        protocol = _PROTOCOLS.get(options.get("proto", "http"))
        if protocol is not None:
            protocols.append(protocol)
        else:
            accepted = ", ".join(_PROTOCOLS)
            sheet.remark(f"tag {tag}", f"proto={clip(options['proto'])} is none of {accepted}; not followed")
        if "weight" in options:
            share = _share(options["weight"])
            if share is None:
                reason = f"weight={clip(options['weight'])} is not a share, such as 0.2 for a fifth; not followed"
                sheet.remark(f"tag {tag}", reason)
            else:
                shares.add(share)
    if protocols:
        sheet.says_protocol(protocols[0])
        if others := sorted({p.value for p in protocols} - {protocols[0].value}):
            sheet.remark("urlprefix- tags", f"they disagree: {protocols[0].value} is used, not {', '.join(others)}")
    if len(shares) > 1:
        sheet.remark("urlprefix- tags", "routes have different weights; an instance can have one; not followed")
    elif shares:
        sheet.share = sheet.share or shares.pop()


def _share(text: str) -> float | None:
    """A weight as Fabio reads it; what is negative means the same as none."""
    try:
        share = float(text)
    except ValueError:
        return None
    return max(0.0, share) if math.isfinite(share) and share <= 1_000 else None
