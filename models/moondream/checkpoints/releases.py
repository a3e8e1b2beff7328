"""The generations of Moondream 2, each as the numbers in which it differs from the last, and how to tell them apart.

After github.com/vikhyat/moondream at the commits of its releases: 96cc1e1, f9092f9, 61e5c3d with 8db8da7, 8fa2f2c,
ffbf822, 211cc2f, 8ac77eb, f74a121, 44146f1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..network.config import MoondreamConfig, Templates, TokenizerConfig
from ..network.tokenizer import END, Tokenizer
from .tensor_names import Family

# The code that lies beside the official weights. It is read as a text that tells its generation, never run.
CODE_FILE = "moondream.py"
CODEGEN_END = 50256

_LATEST = MoondreamConfig()
_ASKED_2025 = Templates(
    caption={
        "short": (198, 198, 16438, 8305, 25),
        "normal": (198, 198, 24334, 1159, 25),
        "long": (198, 198, 14617, 8305, 25),
    },
    query=((198, 198, 24361, 25), (198, 198, 33706, 25)),
    detect=((198, 198, 47504, 25), (628,)),
    point=((198, 198, 12727, 25), (628,)),
    query_suffixes=1,
    question_lead=" ",
)
_MARCH_2025 = replace(
    _LATEST,
    tokenizer=TokenizerConfig(bos_id=CODEGEN_END, eos_id=CODEGEN_END, answer_id=None, templates=_ASKED_2025),
)
_JANUARY_2025 = replace(
    _MARCH_2025,
    region=_MARCH_2025.region and replace(_MARCH_2025.region, size_scale="linear"),
    tokenizer=replace(
        _MARCH_2025.tokenizer,
        templates=replace(
            _ASKED_2025,
            caption={length: ids for length, ids in _ASKED_2025.caption.items() if length != "long"},
            question_lead="",
            object_lead="",
        ),
    ),
)
_ASKED_2024 = Templates(
    caption={"short": "\n\nShort caption:", "normal": "\n\nCaption:"},
    query=("\n\nQuestion: ", "\n\nAnswer:"),
    detect=None,
    point=None,
    query_suffixes=1,
)
_AUGUST_2024 = replace(
    _MARCH_2025,
    text=replace(_LATEST.text, prefix_attn=0),
    vision=replace(_LATEST.vision, tiling="four sizes", overlap_margin=0, max_crops=4),
    region=None,
    tokenizer=replace(_MARCH_2025.tokenizer, strips=True, templates=_ASKED_2024),
)
_MAY_2024 = replace(_AUGUST_2024, tokenizer=replace(_AUGUST_2024.tokenizer, templates=replace(_ASKED_2024, caption={})))
_APRIL_2024 = replace(_MAY_2024, vision=replace(_MAY_2024.vision, tiling="none"))
# Until then the vision tower was timm's, with its epsilon and its exact GELU, and an answer ended with <END>.
_MID_MARCH_2024 = replace(
    _APRIL_2024,
    vision=replace(_APRIL_2024.vision, norm_eps=1e-6, gelu="none"),
    tokenizer=replace(_APRIL_2024.tokenizer, eos_id=27, end_ids=(10619, 29)),
)
_EARLY_MARCH_2024 = replace(
    _MID_MARCH_2024,
    tokenizer=replace(
        _MID_MARCH_2024.tokenizer,
        before_image=(27, 9060, 29),
        templates=replace(_MID_MARCH_2024.tokenizer.templates, query=("</image>\n\nQuestion: ", "\n\nAnswer: ")),
    ),
)


@dataclass(frozen=True)
class Generation:
    """Releases that differ in nothing but their weights, under the name of the first.

    ``written`` and ``unwritten``: what stands, and what does not, in the code beside the weights of this generation,
    and of no other of its family.
    """

    name: str
    family: Family
    config: MoondreamConfig
    releases: tuple[str, ...]
    written: str = ""
    unwritten: str = "\0"


GENERATIONS = (
    Generation(
        "2024-03-04", "whole", _EARLY_MARCH_2024, ("2024-03-04", "2024-03-05", "2024-03-06"), written='Answer: "'
    ),
    Generation("2024-03-13", "whole", _MID_MARCH_2024, ("2024-03-13",), written="<END>", unwritten='Answer: "'),
    Generation(
        "2024-04-02", "whole", _APRIL_2024, ("2024-04-02", "2024-05-08"), written="batch_answer", unwritten="<END>"
    ),
    Generation("2024-05-20", "whole and tiles", _MAY_2024, ("2024-05-20", "2024-07-23")),
    Generation("2024-08-26", "whole and tiles, first places", _AUGUST_2024, ("2024-08-26",)),
    Generation("2025-01-09", "2025", _JANUARY_2025, ("2025-01-09",), written='revision="2024-08-26"'),
    Generation("2025-03-27", "2025", _MARCH_2025, ("2025-03-27", "2025-04-14"), written='revision="2025-01-09"'),
    Generation("2025-06-21", "2025", _LATEST, ("2025-06-21",), written="moondream/starmie-v1"),
)
RELEASES = {release: generation for generation in GENERATIONS for release in generation.releases}


def decide(
    family: Family, content: dict[str, Any], folder: Path, release: str | None, tokenizer: Path | None
) -> Generation:
    """The generation of a checkpoint whose tensors are of this family: by what is certain, never by guessing.

    ``content``: of its config.json. ``folder``: where its code may lie. ``release``: what the user says, or the hub.

    Raises:
        ValueError: what is at hand says nothing for certain, or contradicts itself.
    """
    possible = [generation for generation in GENERATIONS if generation.family == family]
    if release is not None:
        if release not in RELEASES:
            raise ValueError(f"there is no release {release}; choose one of {', '.join(RELEASES)}")
        if RELEASES[release] not in possible:
            fitting = ", ".join(other for generation in possible for other in generation.releases)
            raise ValueError(f"the tensors are not those of release {release}; they fit {fitting}")
        return RELEASES[release]
    if len(possible) == 1:
        return possible[0]
    code = _text(folder / CODE_FILE)
    certain = [each for each in possible if code and each.written in code and each.unwritten not in code]
    if not certain and family == "2025" and (_says_so(content) or (tokenizer and is_starmie(tokenizer))):
        certain = [RELEASES["2025-06-21"]]
    if len(certain) != 1:
        names = ", ".join(generation.name for generation in possible)
        raise ValueError(
            f"the tensors fit the releases {names} alike, and neither {CODE_FILE} nor config.json nor the tokenizer "
            "tells which; say it with --revision RELEASE for a folder or a bucket that holds the files"
        )
    return certain[0]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _says_so(content: dict[str, Any]) -> bool:
    """Whether the configuration names the control tokens that came in 2025-06-21."""
    tokenizer = (content.get("config") or {}).get("tokenizer") or {}
    return tokenizer.get("bos_id") == _LATEST.tokenizer.bos_id and "answer_id" in tokenizer


def is_starmie(tokenizer: Path) -> bool:
    """Whether there is a tokenizer in this file that has the control tokens where those of 2025-06-21 are."""
    return tokenizer.is_file() and Tokenizer(tokenizer).token(_LATEST.tokenizer.bos_id) == END
