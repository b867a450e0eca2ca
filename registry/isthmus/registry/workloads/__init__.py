"""Workloads that registered with the bridge itself, as a registry. What they say is in record.py; how, in docs/workloads.md."""

from isthmus.registry.workloads.adapter import WorkloadsAdapter
from isthmus.registry.workloads.config import WorkloadsConfig

__all__ = ["WorkloadsAdapter", "WorkloadsConfig"]
