"""Which of two agents with the same services came later: a number that grows with each start."""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from isthmus.registry.atomic import write_atomically

log = structlog.get_logger()

FILE = "registration-epoch"


def next_epoch(state_dir: Path) -> int:
    """A number larger than that of any start before: the clock's milliseconds, or one more than the last where that is larger.

    So it grows also when the clock was set back, or the directory is lost, if not both. When it cannot be kept, that is logged.
    """
    file = state_dir / FILE
    try:
        said = file.read_text().strip()
        last = int(said) if said.isascii() and said.isdigit() and len(said) <= 18 else 0
    except (OSError, UnicodeDecodeError):
        last = 0
    epoch = max(last + 1, int(time.time() * 1000))
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(file, f"{epoch}\n".encode())
    except OSError as e:
        log.warning("agent.epoch_not_kept", file=str(file), error=e.strerror or str(e))
    return epoch
