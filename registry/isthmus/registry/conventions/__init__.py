"""What other tools have services say about themselves in tags and metadata (docs/conventions.md). Pure.

A platform's parser calls `read` for each instance, with what was registered, and takes the labels from it, and the protocol and
the number of the port where the platform itself says none. When the service is made, `shape` gives it the rest. Without a
convention both change nothing.
"""

from isthmus.registry.conventions.agent import (
    DRAINED,
    EPOCH,
    LOCALITY,
    MAX_PORTS,
    PORTS,
    WEIGHT,
    labels_of,
    to_locality,
    to_ports,
)
from isthmus.registry.conventions.protocols import protocol_of_port_name
from isthmus.registry.conventions.read import Convention, read
from isthmus.registry.conventions.said import DeclaredPort, Said
from isthmus.registry.conventions.shape import shape

__all__ = [
    "DRAINED",
    "EPOCH",
    "LOCALITY",
    "MAX_PORTS",
    "PORTS",
    "WEIGHT",
    "Convention",
    "DeclaredPort",
    "Said",
    "labels_of",
    "protocol_of_port_name",
    "read",
    "shape",
    "to_locality",
    "to_ports",
]
