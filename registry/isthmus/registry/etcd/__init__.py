"""etcd as an origin: services in the layouts that frameworks write, listed at one revision and watched from the next."""

from isthmus.registry.etcd.adapter import EtcdAdapter
from isthmus.registry.etcd.config import EtcdConfig

__all__ = ["EtcdAdapter", "EtcdConfig"]
