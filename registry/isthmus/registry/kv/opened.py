"""From the store's settings to the store."""

from __future__ import annotations

from pathlib import Path

from isthmus.registry.kv.config import ConsulStoreConfig, DirectoryStoreConfig, StoreConfig
from isthmus.registry.kv.consul import ConsulStore
from isthmus.registry.kv.directory import DirectoryStore
from isthmus.registry.kv.edge import Store
from isthmus.registry.kv.etcd import EtcdStore


def open_store(config: StoreConfig, directory: Path) -> Store:
    """The configured store; `directory` is where one of files is. Needs a running event loop; `close()` it in the end.

    Raises:
        StoreError: the directory cannot be used. Others are asked when they are used.

    """
    if isinstance(config, DirectoryStoreConfig):
        return DirectoryStore(directory)
    if isinstance(config, ConsulStoreConfig):
        return ConsulStore(config)
    return EtcdStore(config)
