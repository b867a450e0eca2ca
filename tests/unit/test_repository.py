"""The shape of the repository: component roots, packaging, import arrows, make targets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def mk_run(command: Sequence[str | Path], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; the output holds both streams."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=150,
    )


def component_roots() -> list[Path]:
    """The folders of the checkout that hold a portion of the namespace package."""
    return sorted(path.parent for path in ROOT.glob("*/isthmus") if path.is_dir())


def portions() -> list[Path]:
    """`registry/isthmus/registry` and its like."""
    return sorted(p for root in component_roots() for p in (root / "isthmus").iterdir() if p.name != "__pycache__")


def configuration() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def files_of_the_package(base: Path) -> set[str]:
    """What is imported from below `base`, which holds `isthmus`: `isthmus/registry/model.py` and so on."""
    return {
        str(path.relative_to(base))
        for path in (base / "isthmus").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


class TestComponentRoots:
    def test_nothing_hides_a_portion_of_the_namespace(self) -> None:
        """An `__init__.py` in a root or directly under `isthmus/` would hide what the other roots hold."""
        assert component_roots()

        stray = [
            path.relative_to(ROOT)
            for root in component_roots()
            for path in (root / "__init__.py", root / "isthmus" / "__init__.py")
            if path.exists()
        ]

        assert stray == []

    def test_a_portion_is_a_typed_package(self) -> None:
        """Each root has one portion of its own name, with `__init__.py` and `py.typed`."""
        assert [f"{root.name}/isthmus/{root.name}" for root in component_roots()] == [
            str(portion.relative_to(ROOT)) for portion in portions()
        ]

        lacking = [
            str(p) for portion in portions() for p in (portion / "__init__.py", portion / "py.typed") if not p.is_file()
        ]

        assert lacking == []

    def test_every_tool_knows_every_root(self) -> None:
        """A root that is missing from one of the lists in pyproject.toml would be left out of the wheel or of a check."""
        names = {root.name for root in component_roots()}
        tool = configuration()["tool"]
        hatch = tool["hatch"]["build"]
        mypy_path = tool["mypy"]["mypy_path"].replace("$MYPY_CONFIG_FILE_DIR", "").split(":")

        lists = {
            "hatch dev-mode-dirs": set(hatch["dev-mode-dirs"]),
            "hatch wheel only-include": {p.removesuffix("/isthmus") for p in hatch["targets"]["wheel"]["only-include"]},
            "hatch wheel sources": set(hatch["targets"]["wheel"]["sources"]),
            "hatch sdist include": {p.strip("/") for p in hatch["targets"]["sdist"]["include"]},
            "mypy files": set(tool["mypy"]["files"]),
            "mypy_path": {p.strip("/") for p in mypy_path},
            "pyright include": set(tool["pyright"]["include"]),
            "pyright extraPaths": set(tool["pyright"]["extraPaths"]),
            "ruff src": set(tool["ruff"]["src"]),
            "importlinter root_packages": {p.removeprefix("isthmus.") for p in tool["importlinter"]["root_packages"]},
        }

        assert {where: names - known for where, known in lists.items() if names - known} == {}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, unpacked, and the wheel that was built from the sdist, unpacked."""
    dist = tmp_path_factory.mktemp("dist")
    uv = shutil.which("uv", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    assert uv is not None, "uv is not there; `make dev` installs it into .venv"

    # Without --wheel or --sdist, uv builds the wheel from the sdist it has just made.
    done = mk_run([uv, "build", "--quiet", "--python", sys.executable, "--out-dir", dist, ROOT], cwd=dist)
    assert done.returncode == 0, done.stdout

    (sdist,) = dist.glob("*.tar.gz")
    shutil.unpack_archive(sdist, dist / "sdist", "gztar", filter="data")
    (wheel,) = dist.glob("*.whl")
    shutil.unpack_archive(wheel, dist / "wheel", "zip")
    (top,) = (dist / "sdist").iterdir()
    return top, dist / "wheel"


class TestPackaging:
    def test_the_wheel_holds_the_package_and_nothing_else(self, built: tuple[Path, Path]) -> None:
        _, wheel = built

        source = {name for root in component_roots() for name in files_of_the_package(root)}

        assert source == files_of_the_package(wheel)
        assert {"isthmus"} == {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}

    def test_the_sdist_holds_licence_and_readme(self, built: tuple[Path, Path]) -> None:
        sdist, _ = built

        assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= {path.name for path in sdist.iterdir()}

    def test_the_wheel_works_from_elsewhere(self, built: tuple[Path, Path], tmp_path: Path) -> None:
        """Every component is imported from the wheel, and the installed command runs."""
        _, wheel = built
        names = [f"isthmus.{portion.name}" for portion in portions()]
        program = f"""
import importlib, importlib.metadata, pathlib, sys
for name in {names!r}:
    found = pathlib.Path(importlib.import_module(name).__file__)
    assert found.is_relative_to({str(wheel)!r}), found
(command,) = importlib.metadata.distribution("isthmus").entry_points
assert command.name == "isthmus", command
sys.argv = ["isthmus", "version"]
sys.exit(command.load()())
"""
        # -S leaves .pth files alone, so that the checkout cannot stand in for something that the wheel lacks.
        path = os.pathsep.join([str(wheel), sysconfig.get_path("purelib")])
        done = mk_run([sys.executable, "-S", "-c", program], cwd=tmp_path, PYTHONPATH=path)

        assert done.returncode == 0, done.stdout
        assert configuration()["project"]["version"] in done.stdout


class TestArrows:
    def lint(self, checkout: Path) -> dict[str, bool]:
        """Whether each contract is kept, by its name."""
        path = os.pathsep.join(str(checkout / root.name) for root in component_roots())
        lint: list[str | Path] = [BIN / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-logo", "--no-cache"]
        done = mk_run(lint, cwd=checkout, PYTHONPATH=path, COLUMNS="200", NO_COLOR="1")
        names = [contract["name"] for contract in configuration()["tool"]["importlinter"]["contracts"]]
        verdicts = {n: re.search(rf"^{re.escape(n)} (KEPT|BROKEN)", done.stdout, re.MULTILINE) for n in names}
        assert all(verdicts.values()), done.stdout
        return {name: verdict is not None and verdict[1] == "KEPT" for name, verdict in verdicts.items()}

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        """A copy of the component roots."""
        for root in component_roots():
            shutil.copytree(root, tmp_path / root.name, ignore=shutil.ignore_patterns("__pycache__"))
        return tmp_path

    def test_every_contract_can_fail(self, checkout: Path) -> None:
        """One import of each forbidden kind breaks every contract that the untouched copy keeps."""
        assert set(self.lint(checkout).values()) == {True}

        for module, statement in {
            "model.py": "import time",
            "hub.py": "import consul; import grpc; import isthmus.xds.resource",
            "file/adapter.py": "import isthmus.registry.consul.adapter",
            "consul/parse.py": "import isthmus.registry.consul.api",
        }.items():
            with (checkout / "registry/isthmus/registry" / module).open("a") as file:
                file.write(f"\n{statement}\n")

        assert set(self.lint(checkout).values()) == {False}

    def test_every_adapter_is_named(self) -> None:
        """A new adapter that is not in the list could import another one."""
        (contract,) = (c for c in configuration()["tool"]["importlinter"]["contracts"] if c["id"] == "adapters")

        adapters = {
            f"isthmus.registry.{path.parent.name}" for path in (ROOT / "registry/isthmus/registry").glob("*/adapter.py")
        }

        assert adapters == set(contract["modules"])


class TestMakefile:
    def test_help_names_every_target(self) -> None:
        """`make` alone lists all targets that somebody may ask for, one line each."""
        declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert declared is not None

        shown = mk_run(["make"], cwd=ROOT, MAKEFLAGS="", MAKELEVEL="").stdout

        assert declared[1].split() == re.findall(r"^  make ([a-z-]+) +\S", shown, re.MULTILINE)

    def test_an_old_python_is_named(self, tmp_path: Path) -> None:
        """The first thing that somebody with Python 3.9 reads says what is needed, and what to write."""
        shutil.copy(ROOT / "Makefile", tmp_path)
        old = tmp_path / "python3.9"
        old.write_text(f"#!{sys.executable}\n" + _OLD_PYTHON)
        old.chmod(0o755)

        done = mk_run(["make", "demo", f"PYTHON={old}"], cwd=tmp_path, MAKEFLAGS="", MAKELEVEL="")

        assert done.returncode != 0
        assert f"Isthmus needs Python 3.11 or later, and {old} is 3.9." in done.stdout
        assert not (tmp_path / ".venv").exists()

    def test_an_absent_python_is_named(self, tmp_path: Path) -> None:
        shutil.copy(ROOT / "Makefile", tmp_path)

        done = mk_run(["make", "test", "PYTHON=python9"], cwd=tmp_path, MAKEFLAGS="", MAKELEVEL="")

        assert done.returncode != 0
        assert "'python9' is not there" in done.stdout


_OLD_PYTHON = """
import sys
sys.version_info = (3, 9, 2, "final", 0)
exec(sys.argv[sys.argv.index("-c") + 1])
"""
