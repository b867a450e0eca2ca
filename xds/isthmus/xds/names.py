"""Names that people see in Envoy: host names of services, and Istio's names of clusters, made and read back.

Host names are lower-case, as Envoy compares them. A label keeps what DNS servers and Envoy accept, `_` included
(RFC 2181 §11); any other character becomes `-`. Two services may so come to one name: translation reports that.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from isthmus.registry.model import ServiceKey

_MAX_LABEL = 63  # RFC 1035 §2.3.4
_UNFIT = re.compile(r"[^a-z0-9_-]+")
_HOSTNAME = re.compile(r"(?:\*\.)?[a-z0-9_][a-z0-9_-]{0,62}(?:\.[a-z0-9_][a-z0-9_-]{0,62})*")


def _label(text: str) -> str:
    label = _UNFIT.sub("-", text.lower()).strip("-")
    if label and len(label) <= _MAX_LABEL:
        return label
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{label[: _MAX_LABEL - len(digest) - 1]}-{digest}" if label else f"x-{digest}"


def _labels(text: str) -> str:
    return ".".join(_label(part) for part in text.split(".") if part) or _label(text)


def hostname(key: ServiceKey, domain: str) -> str:
    """The mesh's own name of a service: `<name>.<namespace>.<domain>`."""
    return f"{_labels(key.name)}.{_labels(key.namespace)}.{domain.lower()}"


def qualified(key: ServiceKey) -> str:
    """The short name that is the same from everywhere: `<name>.<namespace>`."""
    return f"{_labels(key.name)}.{_labels(key.namespace)}"


def bare(key: ServiceKey) -> str:
    """The shortest name, `<name>`; translation gives it to services of the namespace `default` alone."""
    return _labels(key.name)


def alias(text: str) -> str | None:
    """A host name from a registry as Envoy compares it, without a final dot; None if it is no host name.

    A leading `*.` stands for any prefix, as in Envoy.
    """
    lowered = text.lower().removesuffix(".")
    return lowered if _HOSTNAME.fullmatch(lowered) else None


class ClusterName(msgspec.Struct, frozen=True, order=True, gc=False):
    """Istio's name of a cluster: `outbound|9080|v2|reviews.default.mesh`; the subset is empty for all instances."""

    direction: str
    port: int
    subset: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.direction}|{self.port}|{self.subset}|{self.hostname}"

    @classmethod
    def parse(cls, text: str) -> ClusterName:
        """Read a name back.

        Raises:
            ValueError: it does not have the form `<direction>|<port>|<subset>|<hostname>`.

        """
        parts = text.split("|")
        if len(parts) != 4 or not parts[1].isdecimal():
            raise ValueError(f"{text!r} is no cluster name: expected <direction>|<port>|<subset>|<hostname>")
        return cls(parts[0], int(parts[1]), parts[2], parts[3])


def outbound(port: int, hostname: str, subset: str = "") -> str:
    """The name of the cluster that calls to a service's logical port go to."""
    return str(ClusterName("outbound", port, subset, hostname))
