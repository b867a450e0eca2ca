"""Eureka as an origin: polled by deltas, and fed by its servers where they count the bridge among their peers."""

from isthmus.registry.eureka.adapter import EurekaAdapter
from isthmus.registry.eureka.config import EurekaConfig, FeedConfig

__all__ = ["EurekaAdapter", "EurekaConfig", "FeedConfig"]
