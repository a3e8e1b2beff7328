"""Every number of the network. The defaults are Moondream 2B of revision 2025-06-21.

Source of the figures: moondream/torch/config.py @ 44146f1 (github.com/vikhyat/moondream).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

Section = TypeVar("Section")


@dataclass(frozen=True)
class TextConfig:
    """The decoder. ``prefix_attn``: how many first positions (BOS and picture) see each other both ways; 0: none do."""

    dim: int = 2048
    ff_dim: int = 8192
    n_layers: int = 24
    n_heads: int = 32
    n_kv_heads: int = 32
    max_context: int = 2048
    prefix_attn: int = 730
    vocab_size: int = 51200

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.n_heads

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that are rotated: the first half."""
        return self.head_dim // 2


@dataclass(frozen=True)
class VisionConfig:
    """The encoder of crops. ``crop_size`` in pixels, ``overlap_margin`` in patches."""

    enc_dim: int = 1152
    enc_patch_size: int = 14
    enc_n_layers: int = 27
    enc_ff_dim: int = 4304
    enc_n_heads: int = 16
    proj_out_dim: int = 2048
    proj_inner_dim: int = 8192
    crop_size: int = 378
    in_channels: int = 3
    max_crops: int = 12
    overlap_margin: int = 4

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.crop_size // self.enc_patch_size

    @property
    def margin(self) -> int:
        """Pixels that a tile shares with its neighbour, on one side."""
        return self.overlap_margin * self.enc_patch_size

    @property
    def window(self) -> int:
        """Pixels from the start of one tile to the start of the next."""
        return self.crop_size - 2 * self.margin


@dataclass(frozen=True)
class RegionConfig:
    """The encoders and decoders of coordinates and sizes; ``size_out_dim`` holds width bins, then height bins."""

    dim: int = 2048
    coord_feat_dim: int = 256
    coord_out_dim: int = 1024
    size_feat_dim: int = 512
    size_out_dim: int = 2048
    inner_dim: int = 8192


@dataclass(frozen=True)
class Templates:
    """Token ids around what is asked. The ``suffix`` of a query ends its prefill and starts its answer."""

    caption: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "short": (1, 32708, 2, 12492, 3),
            "normal": (1, 32708, 2, 6382, 3),
            "long": (1, 32708, 2, 4059, 3),
        }
    )
    query: tuple[tuple[int, ...], tuple[int, ...]] = ((1, 15381, 2), (3,))
    detect: tuple[tuple[int, ...], tuple[int, ...]] = ((1, 7235, 476, 2), (3,))
    point: tuple[tuple[int, ...], tuple[int, ...]] = ((1, 2581, 2), (3,))

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> Templates:
        """Templates from the ``templates`` of a config.json; what it lacks keeps its default."""
        known: dict[str, Any] = {}
        if "caption" in section:
            known["caption"] = {length: tuple(ids) for length, ids in section["caption"].items()}
        for task in ("query", "detect", "point"):
            if task in section:
                known[task] = (tuple(section[task]["prefix"]), tuple(section[task]["suffix"]))
        return cls(**known)


@dataclass(frozen=True)
class TokenizerConfig:
    """Ids with a meaning of their own, and the templates of the prompts."""

    bos_id: int = 0
    eos_id: int = 0
    answer_id: int = 3
    coord_id: int = 5
    size_id: int = 6
    templates: Templates = field(default_factory=Templates)


@dataclass(frozen=True)
class MoondreamConfig:
    """The whole network."""

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    region: RegionConfig = RegionConfig()
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)

    def __post_init__(self) -> None:
        if self.text.prefix_attn not in (0, self.prefix_length):
            raise ValueError(
                f"config: prefix_attn {self.text.prefix_attn}: it must be {self.vision.grid**2} patches and a BOS, "
                "or 0 where each position sees only those before it"
            )
        if self.vision.window <= 0:
            raise ValueError(f"config: overlap_margin {self.vision.overlap_margin} leaves nothing of a crop")

    @property
    def prefix_length(self) -> int:
        """Positions before the prompt: BOS and the picture's patches."""
        return self.vision.grid**2 + 1

    @classmethod
    def read(cls, path: Path) -> MoondreamConfig:
        """The configuration under the key ``config`` of a config.json; missing keys take the defaults.

        Raises:
            ValueError: the numbers contradict each other.
        """
        sections = json.loads(path.read_text(encoding="utf-8")).get("config", {})
        tokenizer = dict(sections.get("tokenizer", {}))
        if "templates" in tokenizer:
            tokenizer["templates"] = Templates.read(tokenizer["templates"])
        return cls(
            text=_section(TextConfig, sections.get("text", {})),
            vision=_section(VisionConfig, sections.get("vision", {})),
            region=_section(RegionConfig, sections.get("region", {})),
            tokenizer=_section(TokenizerConfig, tokenizer),
        )


def _section(kind: type[Section], values: Mapping[str, Any]) -> Section:
    # The files carry keys of the training code (group_size and the like) that say nothing about inference.
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})
