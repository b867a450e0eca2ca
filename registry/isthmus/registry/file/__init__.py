"""Services in YAML or JSON files, watched: the smallest example of an adapter."""

from isthmus.registry.file.adapter import FileAdapter, FileConfig

__all__ = ["FileAdapter", "FileConfig"]
