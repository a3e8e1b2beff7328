"""The generations of Moondream 2 and 3: the configuration of each, and how a checkpoint's generation is identified.

Source: github.com/vikhyat/moondream at the commits of its releases: 96cc1e1, f9092f9, 61e5c3d with 8db8da7, 8fa2f2c,
ffbf822, 211cc2f, 8ac77eb, f74a121, 44146f1. Moondream 3 is huggingface.co/moondream/moondream3-preview @ 5112966.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..network.config import MoeConfig, MoondreamConfig, RegionConfig, Templates, TextConfig, TokenizerConfig
from ..network.tokenizer import END_OF_TEXT, Tokenizer
from .tensor_names import Family, Naming

# The code in the repositories of official weights. It is searched for text that identifies the generation, never run.
CODE_FILE = "moondream.py"
# The id of END_OF_TEXT in the tokenizer of CodeGen, which all releases before 2025-06-21 use.
CODEGEN_END_ID = 50256
BSL = (
    "the weights of Moondream 3 are under the Business Source License 1.1. It excludes paid products and services for "
    "third parties that compete with paid ones of M87 Labs; read LICENSE.md beside the weights before such use"
)

logger = logging.getLogger(__name__)

_LATEST = MoondreamConfig()
_TEMPLATES_2025 = Templates(
    caption={
        "short": (198, 198, 16438, 8305, 25),
        "normal": (198, 198, 24334, 1159, 25),
        "long": (198, 198, 14617, 8305, 25),
    },
    query=((198, 198, 24361, 25), (198, 198, 33706, 25)),
    detect=((198, 198, 47504, 25), (628,)),
    point=((198, 198, 12727, 25), (628,)),
    query_suffixes=1,
    thinking_id=None,
    before_question=" ",
)
_MARCH_2025 = replace(
    _LATEST,
    tokenizer=TokenizerConfig(bos_id=CODEGEN_END_ID, eos_id=CODEGEN_END_ID, answer_id=None, templates=_TEMPLATES_2025),
)
_JANUARY_2025 = replace(
    _MARCH_2025,
    region=_MARCH_2025.region and replace(_MARCH_2025.region, size_scale="linear"),
    tokenizer=replace(
        _MARCH_2025.tokenizer,
        templates=replace(
            _TEMPLATES_2025,
            caption={length: ids for length, ids in _TEMPLATES_2025.caption.items() if length != "long"},
            before_question="",
            before_object="",
        ),
    ),
)
_TEMPLATES_2024 = Templates(
    caption={"short": "\n\nShort caption:", "normal": "\n\nCaption:"},
    query=("\n\nQuestion: ", "\n\nAnswer:"),
    detect=None,
    point=None,
    query_suffixes=1,
    thinking_id=None,
)
_AUGUST_2024 = replace(
    _MARCH_2025,
    text=replace(_LATEST.text, prefix_attn=0),
    vision=replace(_LATEST.vision, tiling="four sizes", overlap_margin=0, max_crops=4),
    region=None,
    tokenizer=replace(_MARCH_2025.tokenizer, strips_whitespace=True, templates=_TEMPLATES_2024),
)
_MAY_2024 = replace(
    _AUGUST_2024, tokenizer=replace(_AUGUST_2024.tokenizer, templates=replace(_TEMPLATES_2024, caption={}))
)
_APRIL_2024 = replace(_MAY_2024, vision=replace(_MAY_2024.vision, tiling="none"))
# Releases before 2024-04-02 use timm's vision encoder, with its epsilon and exact GELU, and end an answer with <END>.
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
_MOONDREAM_3 = MoondreamConfig(
    # The positions are limited by the model card, and not by the weights.
    text=TextConfig(max_context=32768, rope_theta=1_500_000.0, tau=True, moe=MoeConfig()),
    region=RegionConfig(inner_dim=None, norm=True, next_object="coordinate"),
    tokenizer=TokenizerConfig(templates=Templates(query_suffixes=1)),
)


@dataclass(frozen=True)
class Generation:
    """Releases with the same configuration.

    ``contains`` and ``lacks``: text that ``CODE_FILE`` of these releases contains and lacks. Together they
    distinguish the generations of one family. The defaults fit any text. ``licence``: what a user must know of the
    licence of the weights; "" for weights under the Apache License.
    """

    family: Family
    config: MoondreamConfig
    releases: tuple[str, ...]
    contains: str = ""
    lacks: str = "\0"
    licence: str = ""

    @property
    def name(self) -> str:
        """The first of the releases."""
        return self.releases[0]

    @property
    def uses_starmie(self) -> bool:
        """Whether the tokenizer is moondream/starmie-v1, which has ``END_OF_TEXT`` at id 0."""
        return self.config.tokenizer.bos_id == _LATEST.tokenizer.bos_id

    def config_of(self, content: dict[str, Any], naming: Naming) -> MoondreamConfig:
        """Return the configuration of a checkpoint, from the content of its config.json and the names of its tensors.

        Raises:
            ValueError: if the numbers contradict each other.
        """
        config = self.config.with_overrides(content)
        if config.text.moe is None or config.region is None:
            return config
        # A copy of Moondream 3 may have any style of names with or without float8.
        moe, region = replace(config.text.moe, float8=naming.is_float8), config.region
        region = replace(region, norm=naming.has_region_norm)
        return replace(config, text=replace(config.text, moe=moe), region=region)


GENERATIONS = (
    Generation("2024 global", _EARLY_MARCH_2024, ("2024-03-04", "2024-03-05", "2024-03-06"), contains='Answer: "'),
    Generation("2024 global", _MID_MARCH_2024, ("2024-03-13",), contains="<END>", lacks='Answer: "'),
    Generation("2024 global", _APRIL_2024, ("2024-04-02", "2024-05-08"), contains="batch_answer", lacks="<END>"),
    Generation("2024 tiled", _MAY_2024, ("2024-05-20", "2024-07-23")),
    Generation("2024 tiled, unused region", _AUGUST_2024, ("2024-08-26",)),
    Generation("2025", _JANUARY_2025, ("2025-01-09",), contains='revision="2024-08-26"'),
    Generation("2025", _MARCH_2025, ("2025-03-27", "2025-04-14"), contains='revision="2025-01-09"'),
    Generation("2025", _LATEST, ("2025-06-21",), contains="moondream/starmie-v1"),
    Generation("3 without region norm", _MOONDREAM_3, ("3-preview-2025-09-11",), licence=BSL),
    Generation("3", _MOONDREAM_3, ("3-preview-2026-02-10",), licence=BSL),
    Generation("3 float8", _MOONDREAM_3, ("3.1-2026-07-08",), licence=BSL),
)
RELEASES = {release: generation for generation in GENERATIONS for release in generation.releases}


def identify(
    family: Family, content: dict[str, Any], folder: Path, release: str | None, tokenizer: Path | None
) -> Generation:
    """Return the generation of a checkpoint. ``family``: of its tensors, see ``Naming.of``.

    ``release``, if given, decides. Otherwise the first of these that gives exactly one generation: the family; the text
    of ``CODE_FILE`` in ``folder``; for release 2025-06-21 the BOS id 0, either in ``content``, which is the content of
    config.json (see ``_has_control_tokens``), or in the file ``tokenizer`` (see ``is_starmie``).

    Raises:
        ValueError: if ``release`` does not exist or does not fit the tensors, or nothing identifies the generation.
    """
    possible = [generation for generation in GENERATIONS if generation.family == family]
    if release is not None:
        if release not in RELEASES:
            raise ValueError(f"there is no release {release}; choose {', '.join(RELEASES)}")
        if RELEASES[release] not in possible:
            fitting = ", ".join(other for generation in possible for other in generation.releases)
            raise ValueError(f"the tensors do not fit release {release}; choose {fitting}")
        return RELEASES[release]
    if len(possible) == 1:
        return possible[0]
    path = folder / CODE_FILE
    code = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = [each for each in possible if code and each.contains in code and each.lacks not in code]
    if not found and family == "2025" and (_has_control_tokens(content) or (tokenizer and is_starmie(tokenizer))):
        found = [RELEASES["2025-06-21"]]
    if len(found) != 1:
        names = ", ".join(generation.name for generation in possible)
        raise ValueError(
            f"the tensors fit the releases {names}, and neither {CODE_FILE} nor config.json nor the tokenizer "
            "identifies one; put the files in a folder or a bucket, and give --revision RELEASE"
        )
    return found[0]


def log_licence(generation: Generation, model: str) -> None:
    """Log the licence of the weights as a warning, if it is not the Apache License. ``model``: its name or URL."""
    if generation.licence:
        logger.warning("%s: %s", model, generation.licence)


def _has_control_tokens(content: dict[str, Any]) -> bool:
    """Return whether the content of a config.json has the control tokens of release 2025-06-21.

    True if the object at config.tokenizer has ``bos_id`` 0 and the key ``answer_id`` with any value. False if either
    key or the object is missing.
    """
    tokenizer = (content.get("config") or {}).get("tokenizer") or {}
    return tokenizer.get("bos_id") == _LATEST.tokenizer.bos_id and "answer_id" in tokenizer


def is_starmie(tokenizer: Path) -> bool:
    """Return whether a tokenizer.json exists and has ``END_OF_TEXT`` at id 0, the BOS id since release 2025-06-21.

    Raises:
        ValueError: if the file exists and is not a tokenizer.
    """
    return tokenizer.is_file() and Tokenizer(tokenizer).token(_LATEST.tokenizer.bos_id) == END_OF_TEXT
