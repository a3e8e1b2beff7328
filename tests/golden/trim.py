"""Make tests/golden/public and tests/golden/moondream3 from the full sets of reference outputs.

``python tests/golden/trim.py FULL FULL3``. What no test reads is left out: spatial questions, margins, bfloat16 runs,
vision intermediates.
"""

from __future__ import annotations

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent
COPIED = ("config.json", "model.safetensors", "tokenizer.json")
SECTIONS = (
    "images",
    "text_only",
    "text_only_reasoning",
    "bias_runs",
    "region_units",
    "select_tiling",
    "low_margins",
    "settings",
    "versions",
)
IMAGE_KEYS = ("name", "file", "tiling_hw", "crops_sha256", "caption", "query", "query_reasoning", "detect", "point")
LEFT_OUT = {"margins", "min_margin", "min_router_gap", "pos", "next_id_at_end", "question_ids", "object_ids"}
ARRAYS = (
    "img?.features",
    "img?.features_rows",
    "img?.prefix_hidden_last",
    "img?.prefix_hidden_rows",
    "img1.block*",
    "*.first_logits",
    "region.*",
    "sampling.*",
)
ARRAYS_LEFT_OUT = ("bf16*", "*.spatial.*", "*.spatial_reasoning.*", "textonly_reasoning*")
# The smaller checkpoints of Moondream 3 share pictures and tokenizer with the larger one.
SMALLER = ("noregionln", "fp8-legacy")


def main(full: Path, full3: Path) -> None:
    """Trim both sets."""
    trim(full, GOLDEN / "public", ARRAYS_LEFT_OUT)
    trim(full3, GOLDEN / "moondream3", (*ARRAYS_LEFT_OUT, "img?.features"))
    for name in SMALLER:
        trim(full3 / name, GOLDEN / "moondream3" / name, ARRAYS_LEFT_OUT)


def trim(full: Path, target: Path, arrays_left_out: tuple[str, ...]) -> None:
    """Copy the checkpoint, and write the two files of expectations."""
    expected = json.loads((full / "expected.json").read_text())
    is_smaller = target.name in SMALLER
    pictures = () if is_smaller else tuple(image["file"] for image in expected["images"])
    for name in (*(name for name in COPIED if not (is_smaller and name == "tokenizer.json")), *pictures):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(full / name, target / name)
    kept = {section: without(expected[section], LEFT_OUT) for section in SECTIONS if section in expected}
    kept["images"] = [{key: image[key] for key in IMAGE_KEYS if key in image} for image in kept["images"]]
    (target / "expected.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n")
    arrays = np.load(full / "expected.npz")
    names = [name for name in arrays if matches(name, ARRAYS) and not matches(name, arrays_left_out)]
    np.savez_compressed(target / "expected.npz", **{name: arrays[name] for name in names})


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether any of the shell patterns fits."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def without(value: object, keys: set[str]) -> object:
    """The same JSON value with these keys gone at every depth."""
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(inner, keys) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
