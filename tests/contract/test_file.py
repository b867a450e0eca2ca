"""The file adapter keeps the contract."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from isthmus.registry.file import FileAdapter, FileConfig
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import AdapterContract, Instances, World


class FileWorld(World):
    """A directory with a file per service; unreadable means that the directory is away."""

    def __init__(self, parent: Path) -> None:
        self._directory = parent / "services"
        self._away = parent / "away"
        self._backup = parent / "backup"
        self._directory.mkdir()

    def make_adapter(self) -> FileAdapter:
        origin = Origin("files", "file")
        return FileAdapter(origin, FileConfig(str(self._directory)), OriginStatus(origin))

    async def set_service(self, name: str, instances: Instances) -> None:
        written = [{"id": id_, "address": a, "ports": {"http": port}} for id_, (a, port) in instances.items()]
        service = {"name": name, "ports": [{"name": "http", "number": 80}], "instances": written}
        temporary = self._directory / f".{name}"
        temporary.write_text(yaml.safe_dump({"services": [service]}))
        temporary.rename(self._directory / f"{name}.yaml")

    async def remove(self, name: str) -> None:
        (self._directory / f"{name}.yaml").unlink()

    async def spoil(self) -> str:
        (self._directory / "broken.yaml").write_text("services: [")
        return "broken.yaml:1"

    async def break_(self) -> None:
        self._directory.rename(self._away)

    async def heal(self) -> None:
        self._away.rename(self._directory)

    async def save(self) -> None:
        shutil.copytree(self._directory, self._backup)

    async def restore(self) -> None:
        self._directory.rename(self._away)
        self._backup.rename(self._directory)


class TestFile(AdapterContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return FileWorld(tmp_path)
