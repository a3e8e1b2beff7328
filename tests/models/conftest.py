"""Fixtures of hosted APIs, and one CPU thread for the small networks: more threads only wait for each other."""

import torch
from support.hosted.fixtures import api, clock

__all__ = ["api", "clock"]

torch.set_num_threads(1)
