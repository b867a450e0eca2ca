"""What may stand as the address of an instance, whatever registry says it. Pure."""

from __future__ import annotations

import ipaddress
import re

SHOWN = 300
"""Characters of a wrong address that an error repeats."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)


def is_host_name(text: str) -> bool:
    """Whether DNS could have it: labels of letters, digits, dashes and, as many have them, underscores."""
    return _HOST_NAME.fullmatch(text) is not None


def parse_address(text: str) -> str:
    """An IP address in its canonical form, or a host name as it is.

    Raises:
        ValueError: it is neither, or an address that nobody can call from elsewhere; with its reason.

    """
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        # All digits and dots is an address with a slip in it, never a name that would resolve.
        if not is_host_name(text) or not re.search("[A-Za-z]", text):
            raise ValueError(f"address {text[:SHOWN]!r} is neither an IP address nor a host name") from None
        return text
    if ip.is_unspecified or ip.is_multicast or "%" in text:
        raise ValueError(f"address {text} cannot be called from elsewhere")
    canonical = str(ip)
    return text if text == canonical else canonical  # that text is there already, and there are many


def parse_socket_path(path: str) -> str:
    """The address of a Unix domain socket.

    Raises:
        ValueError: the path is not absolute, or no path at all.

    """
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path[:SHOWN]!r} is not the absolute path of a socket")
    return f"unix://{path}"
