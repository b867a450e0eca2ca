from __future__ import annotations

import msgspec

from isthmus.xds.server.status import ProxyStatus, ProxyType
from tests.unit.cli.conftest import Pretender, Run

SYNCED = ProxyType("LDS", "SYNCED", "a" * 32, "a" * 32, -1, 3.2, "")


def proxy(node: str, outbound: str, remark: str = "") -> ProxyStatus:
    return ProxyStatus(node, "c", "peer", "delta", "envoy 1.40.0", 0.0, (SYNCED,), "envoy", outbound, remark)


def test_the_outbound_mode_of_an_envoy_is_shown(run: Run, pretender: Pretender) -> None:
    """And what is not understood of its node, after the table, so that scripts need not read it."""
    strange = proxy("b", "listener", "its metadata has OUTBOUND 'X'")
    said = [msgspec.to_builtins(p) for p in (proxy("a", "captured"), strange)]
    done = run("proxy-status", "--bridge", pretender.says(said))
    assert done.status == 0
    head, *rows = done.out.splitlines()
    at = head.index("OUTBOUND")
    assert [row[at:].split()[0] for row in rows] == ["captured", "listener"]
    assert done.err == "isthmus: proxy b: its metadata has OUTBOUND 'X'\n"
