"""Nomad's native services as an origin, their health joined from allocations, deployments, nodes and checks."""

from isthmus.registry.nomad.adapter import NomadAdapter
from isthmus.registry.nomad.config import NomadConfig

__all__ = ["NomadAdapter", "NomadConfig"]
