"""Install the real servers that tests run.

    python -m tests.peers                  all of them; one that cannot be had is named, and that is all
    python -m tests.peers envoy-1.40.0     these, and fail if one cannot be had

With ISTHMUS_PEERS=required the first form fails as well.
"""

from __future__ import annotations

import sys
import time

from tests.peers import BINARIES, cache, required
from tests.peers.install import CannotInstallError, install, is_installed

SECONDS_BETWEEN_LINES = 20


def main(names: list[str]) -> int:
    """Install the named peers, or all; returns the exit status."""
    unknown = [name for name in names if name not in BINARIES]
    if unknown:
        _say(f"There is no peer {', '.join(unknown)}; there are {', '.join(BINARIES)}")
        return 2
    try:
        must_have = bool(names) or required()
    except ValueError as e:
        _say(str(e))
        return 2

    absent = [peer for peer in names or BINARIES if not is_installed(peer)]
    if absent:
        _say(f"Installing into {cache()}: {', '.join(absent)}")
    failed = []
    for peer in absent:
        began = time.monotonic()
        try:
            install(peer, _Progress(peer))
        except CannotInstallError as e:
            failed.append(peer)
            _say(f"  {peer}: not available: {e}")
        except OSError as e:
            _say(f"The cache {cache()} cannot be written ({e.strerror}); XDG_CACHE_HOME names another place")
            return 1
        else:
            _say(f"  {peer}: ready after {time.monotonic() - began:.1f} s")
    if failed and must_have:
        return 1
    if failed:
        _say(f"  tests that need {' or '.join(failed)} will be skipped")
    return 0


class _Progress:
    """Says how a build gets on: the first line at once, then one now and then."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._began = time.monotonic()
        self._next = self._began

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SECONDS_BETWEEN_LINES
            _say(f"  {self._peer}: {text} ({now - self._began:.0f} s)")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
