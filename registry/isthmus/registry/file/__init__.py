"""A directory of YAML or JSON services, or one such file, watched: the smallest example of an adapter."""

from isthmus.registry.file.adapter import FileAdapter, FileConfig

__all__ = ["FileAdapter", "FileConfig"]
