"""Make tests/golden/public from the full set of reference outputs: ``python tests/golden/trim.py FULL``.

What no test reads is left out: reasoning, spatial questions, margins, bfloat16 runs, vision intermediates.
"""

from __future__ import annotations

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

PUBLIC = Path(__file__).parent / "public"
COPIED = ("config.json", "model.safetensors", "tokenizer.json")
SECTIONS = ("images", "text_only", "bias_runs", "region_units", "select_tiling", "low_margins", "settings", "versions")
IMAGE_KEYS = ("name", "file", "tiling_hw", "crops_sha256", "caption", "query", "detect", "point")
LEFT_OUT = {"margins", "min_margin", "pos", "next_id_at_end", "question_ids", "object_ids"}
ARRAYS = ("img?.features", "img?.prefix_hidden_last", "*.first_logits", "region.*", "sampling.*")
ARRAYS_LEFT_OUT = ("bf16*", "*.spatial.*")


def main(full: Path) -> None:
    """Copy, then write the two files of expectations."""
    (PUBLIC / "images").mkdir(parents=True, exist_ok=True)
    expected = json.loads((full / "expected.json").read_text())
    for name in [*COPIED, *(image["file"] for image in expected["images"])]:
        shutil.copyfile(full / name, PUBLIC / name)
    kept = {section: without(expected[section], LEFT_OUT) for section in SECTIONS}
    kept["images"] = [{key: image[key] for key in IMAGE_KEYS} for image in kept["images"]]
    kept["bias_runs"] = [run for run in kept["bias_runs"] if run["call"] != "query_reasoning"]
    (PUBLIC / "expected.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n")
    arrays = np.load(full / "expected.npz")
    names = [name for name in arrays if matches(name, ARRAYS) and not matches(name, ARRAYS_LEFT_OUT)]
    np.savez_compressed(PUBLIC / "expected.npz", **{name: arrays[name] for name in names})


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether any of the shell patterns fits."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def without(value: object, keys: set[str]) -> object:
    """The same JSON value with these keys gone at every depth."""
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(inner, keys) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main(Path(sys.argv[1]))
