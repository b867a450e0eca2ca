"""The machine that measures, and what a process on it uses. Linux only: everything is read from /proc."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> str:
    """One line for people who compare figures."""
    model = next((v for k, v in _fields(Path("/proc/cpuinfo")) if k == "model name"), platform.machine())
    memory = next((v for k, v in _fields(Path("/proc/meminfo")) if k == "MemTotal"), "0 kB")
    gib = int(memory.split()[0]) / 1024 / 1024
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} x {model}, {gib:.0f} GiB, Linux {platform.release()}; load before: {load:.1f}"


def cpu_seconds(pid: int) -> float:
    """Time that all threads of a process have spent on a CPU, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_kb(pid: int) -> float:
    """Resident memory of a process, in KiB."""
    text = dict(_fields(Path(f"/proc/{pid}/status")))["VmRSS"]
    return float(text.split()[0])


def _fields(path: Path) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return [(key.strip(), value.strip()) for key, _, value in pairs]
