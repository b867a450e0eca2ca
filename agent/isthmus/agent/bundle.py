"""What one machine needs to join, as a folder that is copied there: agent.yaml, what it refers to, and what to do with it. Pure.

A copy that was cut short would often still be valid YAML, of a machine without registration or without half of its services.
So the last line of such an agent.yaml says that it is whole, and the first one that there has to be such a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

CONFIG, README, MANIFEST = "agent.yaml", "README.md", "bundle.json"
_FIRST = "# Written by `isthmus workload bundle`. Change what you like, but leave the last line."
_LAST = "# end of bundle"
_PLACE = "/etc/isthmus"

_README = """\
# {node} joins the mesh

It runs {services}. As root on {node}, in this folder, with the packages in it:

```bash
{install}
```

It is in the mesh when this ends:

```bash
isthmus agent wait --timeout 60s
```

{after}To leave: `apt-get purge -y isthmus isthmus-envoy`.
"""
_DNS = """\
Programs call others by name once they ask the agent's DNS; the second line undoes it:

```bash
isthmus agent dns-setup --config /etc/isthmus/agent.yaml --mode resolv.conf --write
isthmus agent dns-setup --config /etc/isthmus/agent.yaml --mode resolv.conf --undo
```

"""
_INTERCEPT = """\
Calls pass through the proxy once the rules are there; the second line undoes it:

```bash
systemctl enable --now isthmus-intercept
systemctl disable --now isthmus-intercept
```

"""


class CutShortError(ValueError):
    """An agent.yaml of a bundle is not whole."""


def require_whole(text: bytes) -> None:
    """Refuse the agent.yaml of a bundle of which the end is missing; anything else is taken as it is.

    Raises:
        CutShortError: it is cut short.

    """
    if text.startswith(_FIRST[:32].encode()) and not text.rstrip().endswith(_LAST.encode()):
        raise CutShortError(
            f"this is a part of what `isthmus workload bundle` wrote: the last line, {_LAST!r}, is missing; copy the bundle again"
        )


def to_bundle(settings: Mapping[str, Any], further: Mapping[str, bytes]) -> dict[str, bytes]:
    """Make the files of a bundle from settings of agent.yaml; `further` are files to which these refer, by their names.

    The manifest says what was written, so that a bundle can be told from somebody's own files.
    """
    dumped = yaml.safe_dump(_without_null(dict(settings)), sort_keys=False, allow_unicode=True, width=120)
    files = {
        CONFIG: f"{_FIRST}\n{dumped}{_LAST}\n".encode(),
        **further,
        README: _to_readme(settings, [*further]).encode(),
    }
    manifest = {"node": settings.get("node", ""), "files": {name: digest(content) for name, content in files.items()}}
    return files | {MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"}


def written_files(manifest: bytes) -> dict[str, str]:
    """The files that a manifest names, with their digests.

    Raises:
        ValueError: it is no manifest.

    """
    return msgspec.json.decode(manifest, type=_Manifest).files


def digest(content: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class _Manifest(msgspec.Struct, frozen=True):
    node: str
    files: dict[str, str]


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list | tuple) else value


def _to_readme(settings: Mapping[str, Any], further: Sequence[str]) -> str:
    names = ", ".join(service["name"] for service in settings["services"])
    after = _DNS if settings.get("dns") is not None else ""
    if settings.get("interceptionMode", "NONE") != "NONE":
        after += _INTERCEPT
    install = (
        "apt-get install ./isthmus_*.deb ./isthmus-envoy_*.deb",
        f"install -g isthmus-proxy -m 640 {' '.join((CONFIG, *further))} {_PLACE}/",
        "systemctl restart isthmus-agent",
    )
    return _README.format(
        node=settings.get("node") or "this machine",
        services=names,
        install="\n".join(install),
        after=after,
    )
