"""Names that users give: of the official model, of devices and of precisions."""

from __future__ import annotations

import re

# The model if none is named.
OFFICIAL = "vikhyatk/moondream2"
# The smallest checkpoint of Moondream 3, with experts in float8.
FLOAT8 = "moondream/moondream3.1-9B-A2B"
# OWNER/NAME on the Hugging Face hub.
REPOSITORY_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The dtypes of these names in PyTorch.
DTYPE_NAMES = ("float32", "bfloat16", "float16")
# The logger of the engine's reports about memory, which the command prints.
MEMORY_LOGGER = f"{__package__}.engine.memory"


def check_device(device: str) -> None:
    """Check the spelling of a device's name. The device need not exist here: a worker may have it.

    Raises:
        ValueError: if the name is not auto, cpu, mps, cuda or cuda:N.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"device {device}: choose auto, cpu, cuda, cuda:N or mps")
