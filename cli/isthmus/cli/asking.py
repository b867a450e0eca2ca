"""Asking a running bridge, over its HTTP side."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from cyclopts import Parameter

from isthmus.cli import address
from isthmus.cli.output import CommandError

_TIMEOUT = 10.0
_MAX_BYTES = 1 << 28

T = TypeVar("T")
BridgeAddress = Annotated[str, Parameter(name="--bridge", env_var="ISTHMUS_BRIDGE")]


def get(bridge: str, path: str, expected: type[T], **parameters: str) -> T:
    """A JSON document of a bridge.

    Raises:
        CommandError: there is no answer, or another one than was expected, or the bridge says why it has none.

    """
    return _ask("GET", bridge, path, expected, parameters)


def post(bridge: str, path: str, expected: type[T], **parameters: str) -> T:
    """Have a bridge do something; raises like `get`."""
    return _ask("POST", bridge, path, expected, parameters)


def _ask(method: str, bridge: str, path: str, expected: type[T], parameters: dict[str, str]) -> T:
    address.split("--bridge", bridge)
    url = f"http://{bridge}{path}"
    asked = f"{url}?{urlencode(parameters)}" if parameters else url
    # No proxy from the environment: the bridge is a neighbour.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(asked, method=method), timeout=_TIMEOUT) as answer:  # noqa: S310 - http
            content = answer.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise CommandError(f"{url}: the answer is larger than {_MAX_BYTES >> 20} MiB")
        document: Any = json.loads(content)
        return msgspec.convert(document, expected)
    except urllib.error.HTTPError as e:
        refusal = _refusal(e) or f"{url} answered {e.code}: is that a bridge, and of this version?"
        raise CommandError(refusal, 2 if e.code == 400 else 1) from None
    except msgspec.ValidationError as e:
        raise CommandError(f"{url}: {e}: is that a bridge of another version?") from None
    except ValueError:
        raise CommandError(f"{url} answered with something other than JSON: is that a bridge's HTTP address?") from None
    except (OSError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise CommandError(
            f"no answer from a bridge at {bridge}: {said}; --bridge HOST:PORT says where it is"
        ) from None


def _refusal(error: urllib.error.HTTPError) -> str:
    """The sentence with which a bridge refuses; empty when somebody else does."""
    with error, contextlib.suppress(OSError, http.client.HTTPException, ValueError, msgspec.ValidationError):
        return msgspec.json.decode(error.read(1 << 16), type=dict[str, str]).get("error", "")
    return ""
