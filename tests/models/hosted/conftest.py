"""The hosted APIs, on loopback."""

from hosted.fixtures import api, clock

__all__ = ["api", "clock"]
