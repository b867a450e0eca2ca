"""What the documentation tells people to type, configure, fetch and watch is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
import yaml

from isthmus.agent import load as agent_config
from isthmus.bridge import doctor
from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, ConsulRegistry, FileRegistry, NomadRegistry, parse
from isthmus.cli.main import COMMANDS, app
from isthmus.registry import doubt
from isthmus.registry.document import parse_document

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


AGENT_PAGES = tuple(f"docs/{page}.md" for page in ("agent", "dns", "intercept", "registration"))
"""What they configure is the agent."""


class Block(NamedTuple):
    """A fenced block: where it is, its language, its text."""

    where: str
    language: str
    text: str


def blocks(language: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if found[1] == language:
                line = text.count("\n", 0, found.start()) + 1
                yield Block(f"{page.relative_to(ROOT)}:{line}", found[1], found[2])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of the shell blocks and every `make` or `isthmus` in running text, as words."""
    for block in blocks("sh"):
        for line in block.text.splitlines():
            if words := shlex.split(re.split(r"\s[|&>]+\s", line)[0], comments=True):
                yield block.where, words
    for page in PAGES:
        for found in re.finditer(r"`((?:make|isthmus) [^`]*)`", page.read_text()):
            yield str(page.relative_to(ROOT)), shlex.split(found[1])


def prose() -> str:
    return "\n".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = {(where, words[1]) for where, words in commands() if words[0] == "make" and len(words) > 1}

    assert {target for _, target in named} >= {"demo", "test", "check"}
    assert [(where, target) for where, target in sorted(named) if target not in targets] == []


def test_isthmus_commands_and_options_exist() -> None:
    """Every `isthmus ...` of the documentation is understood, with all its options; so is `make demo ARGS=...`."""
    seen = set()
    for where, typed in commands():
        words = typed
        if typed[:2] == ["make", "demo"]:
            words = ["isthmus", "demo", *shlex.split(" ".join(typed[2:]).removeprefix("ARGS="))]
        if words[0].rpartition("/")[2] == "isthmus" and "NAME" not in words:
            try:
                app.parse_args(words[1:], exit_on_error=False, print_error=False)
            except Exception as e:
                raise AssertionError(f"{where}: {' '.join(words)}: {e}") from e
            seen.add(words[1])

    assert seen >= set(COMMANDS) - {"version"}


def test_the_readme_lists_the_commands() -> None:
    listed = set(re.findall(r"^\| `isthmus ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))

    assert listed == set(COMMANDS)


def test_other_programs_are_few() -> None:
    """Nobody needs a program that the documentation does not say where to get."""
    programs = {words[0].rpartition("/")[2] for _, words in commands()}

    assert programs <= {"cd", "curl", "docker", "envoy", "isthmus", "make", "nomad", "pip", "source", "uv"}


def test_configurations_are_accepted() -> None:
    """Every configuration of the documentation is taken as it stands, and so is every file of services."""
    count = 0
    for block in blocks("yaml"):
        if block.text.startswith("registries:"):
            variables = ("CONSUL_HTTP_TOKEN", "EUREKA_PASSWORD", "NOMAD_TOKEN")
            parse(block.text.encode(), ROOT / "isthmus.yaml", dict.fromkeys(variables, "secret"))
        elif block.where.startswith(AGENT_PAGES):
            agent_config.parse(block.text.encode(), ROOT / "agent.yaml", {}, "vm-1")
        else:
            document = parse_document(block.text.encode(), "docs")
            assert document.entries, block.where
            assert document.problems == (), block.where
        count += 1

    assert count >= 4


def test_the_configuration_with_all_defaults_is_complete() -> None:
    """docs/operate.md names every key below the registries, with its default."""
    block = next(b for b in blocks("yaml") if b.where.startswith("docs/operate.md"))

    config = parse(block.text.encode(), ROOT / "isthmus.yaml", {})

    assert config == Config(registries=config.registries)
    documented = yaml.safe_load(block.text)
    assert set(documented) == set(Config.__struct_fields__)
    for section, value in documented.items():
        if isinstance(value, dict):
            assert set(value) - {"type"} == set(getattr(config, section).__struct_fields__), section


def table(page: str) -> dict[str, str]:
    """First and second cell of the tables of a page; several keys in one cell share the second one."""
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", (ROOT / page).read_text(), re.MULTILINE)
    return {key: default for keys, default in rows for key in re.findall(r"`([^`]+)`", keys)}


@pytest.mark.parametrize(("page", "registry"), [("docs/consul.md", ConsulRegistry), ("docs/nomad.md", NomadRegistry)])
def test_every_key_of_a_registry_is_described(page: str, registry: type[msgspec.Struct]) -> None:
    """Its page has each key, and its default where that is more than "nothing"."""
    described = table(page)
    (example,) = (yaml.safe_load(b.text)["registries"][0] for b in blocks("yaml") if b.where.startswith(page))

    for field in msgspec.structs.fields(registry):
        if field.name in example:
            continue
        assert field.name in described, field.name
        default = msgspec.to_builtins(field.default)
        if default != "":
            shown: Any = yaml.safe_load(described[field.name].strip("`"))
            assert shown == (list(default) if isinstance(default, tuple) else default), field.name


def test_every_key_of_a_file_registry_is_described() -> None:
    example = next(
        b.text for b in blocks("yaml") if b.where.startswith("docs/files.md") and b.text.startswith("registries:")
    )

    (registry,) = yaml.safe_load(example)["registries"]

    said = set(registry) - {"type"} | table("docs/files.md").keys()
    assert said >= set(FileRegistry.__struct_fields__)


async def test_paths_and_metrics_exist(tmp_path: Path) -> None:
    """What docs/operate.md tells an operator to fetch and to alert on is served."""
    (tmp_path / "services").mkdir()
    config = parse(
        b"registries: [{name: local, type: file, path: services/}]\n"
        b'xds: {address: "127.0.0.1:0"}\nhttp: {address: "127.0.0.1:0"}\nstate_dir: state\n',
        tmp_path / "isthmus.yaml",
        {},
    )
    paths = set(re.findall(r"(?<![\w.])/(?:healthz|readyz|metrics|debug/\w+)", prose()))
    bridge = Bridge(config)
    await bridge.start()
    try:
        answers = {path: await get(f"http://{bridge.http_address}{path}") for path in paths}
    finally:
        await bridge.stop()

    assert paths == {
        *("/healthz", "/readyz", "/metrics", "/debug/catalog", "/debug/proxies", "/debug/registries", "/debug/holds"),
        *("/debug/parity", "/debug/doctor", "/debug/explain"),
    }
    without_parameters = {path: status for path, (status, _) in answers.items() if status not in (200, 503)}
    assert without_parameters == {"/debug/parity": 400, "/debug/explain": 400}
    served = answers["/metrics"][1]
    for metric in set(re.findall(r"\bisthmus_(?!agent_)\w+", prose())):
        assert re.search(rf"^# TYPE {metric} ", served, re.MULTILINE), metric
    catalog = msgspec.json.decode(answers["/debug/catalog"][1])
    for key in ("virtual_ips", "quarantined", "conflicts", "holds", "leaving"):
        assert f"`{key}`" in prose()
        assert key in catalog


async def get(url: str) -> tuple[int, str]:

    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


def sources() -> str:
    return "\n".join(path.read_text() for path in ROOT.glob("*/isthmus/**/*.py"))


def test_log_events_exist() -> None:
    """Log events that the documentation names are written somewhere, and those that somebody should see are named."""
    calls = re.findall(r'log\.(\w+)\(\s*(?:#.*\s*)?"([a-z]+\.[a-z_]+)"', sources())
    written = {event for _, event in calls}
    alarming = {event for level, event in calls if level in ("warning", "error", "critical")}
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", prose()))
    families = {event.partition(".")[0] for event in written}
    keys = {
        "drain.grace",
        "guard.hold",
        "guard.services",
        "guard.shrink",
        "merge.weights",
        "envoy.lb",
        "mesh.domain",
        "mesh.virtual_ips",
        "xds.address",
        "xds.limits",
        "xds.load_interval",
        "xds.tls",
    }

    rows = set(re.findall(r'"([a-z]+\.[a-z_0-9]+)"', "\n".join(p.read_text() for p in (ROOT / "bench").rglob("*.py"))))
    assert alarming
    assert sorted(alarming - named) == []
    files = {n for n in named if n.endswith((".md", ".py", ".yaml"))}
    assert sorted(n for n in named - files - keys - rows if n.partition(".")[0] in families and n not in written) == []


def test_findings_of_the_doctor_are_described() -> None:
    described = {code for cell in table("docs/operate.md") for code in re.findall(r"^[A-Z]\w+$", cell)}

    assert described == {*doctor.FIXES, *doubt.FIXES}


def test_links_lead_somewhere() -> None:
    """Relative links, and anchors in them."""
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if link.startswith(("http://", "https://")):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            anchors = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if target.is_file() else []
            if not target.exists() or (anchor and anchor not in {a.lower().replace(" ", "-") for a in anchors}):
                broken.append(f"{page.relative_to(ROOT)}: {link}")

    assert broken == []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the files that the README tells people to have."""
    (config,) = (b.text for b in blocks("yaml") if b.where.startswith("README.md"))
    (services,) = (b.text for b in blocks("yaml") if b.text.startswith("services:"))
    (tmp_path / "isthmus.yaml").write_text(config)
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "reviews.yaml").write_text(services)
    return tmp_path


def test_the_commands_that_end_by_themselves_are_run(place: Path) -> None:
    """`serve --check` and `bootstrap`, word for word as the documentation has them, end well."""
    ran = 0
    for where, words in {tuple(words): (where, words) for where, words in commands()}.values():
        if words[0].rpartition("/")[2] != "isthmus":
            continue
        if words[1] in ("bootstrap", "version") or (words[1] == "serve" and "--check" in words):
            done = subprocess.run(
                [str(Path(sys.executable).parent / "isthmus"), *words[1:]],
                cwd=place,
                env={"CONSUL_HTTP_TOKEN": "secret", "PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, f"{where}: {' '.join(words)}: {done.stderr}"
            assert "secret" not in done.stdout + done.stderr
            ran += 1

    assert ran >= 3
