"""One CPU thread for the small networks: more only wait for each other, above all on a busy machine; hosted APIs."""

import torch
from support.hosted.fixtures import api, clock

__all__ = ["api", "clock"]

torch.set_num_threads(1)
