"""Consul as an origin: health-aware, by blocking queries, within a budget of connections."""

from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.consul.config import ConsulConfig

__all__ = ["ConsulAdapter", "ConsulConfig"]
