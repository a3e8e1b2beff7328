"""Every number of the network. The defaults are Moondream 2B of revision 2025-06-21.

Source of the figures: moondream/torch/config.py @ 44146f1 (github.com/vikhyat/moondream). Other generations are these
same numbers with others in their place: see releases.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

Section = TypeVar("Section")

# Part of a prompt: token ids, or text that is encoded in one with its neighbours.
Piece = tuple[int, ...] | str
# How a picture is cut: overlapping tiles on a grid of its own; the nearest of four sizes; not at all.
Tilings = Literal["overlapping", "four sizes", "none"]

# What a config.json of 2024 calls the numbers of its decoder; those of the first weeks come last.
PHI_NAMES = {
    "dim": ("hidden_size", "n_embd"),
    "ff_dim": ("intermediate_size", "n_inner"),
    "n_layers": ("num_hidden_layers", "n_layer"),
    "n_heads": ("num_attention_heads", "n_head"),
    "n_kv_heads": ("num_key_value_heads", "num_attention_heads", "n_head"),
    "max_context": ("max_position_embeddings", "n_positions"),
    "vocab_size": ("vocab_size",),
}


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
    tiling: Tilings = "overlapping"
    norm_eps: float = 1e-5
    gelu: Literal["tanh", "none"] = "tanh"

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

    @property
    def proj_in_dim(self) -> int:
        """Channels of a patch on its way to the decoder: of the whole, and of the tiles where there are any."""
        return self.enc_dim if self.tiling == "none" else 2 * self.enc_dim


@dataclass(frozen=True)
class RegionConfig:
    """The encoders and decoders of coordinates and sizes; ``size_out_dim`` holds width bins, then height bins."""

    dim: int = 2048
    coord_feat_dim: int = 256
    coord_out_dim: int = 1024
    size_feat_dim: int = 512
    size_out_dim: int = 2048
    inner_dim: int = 8192
    size_scale: Literal["log", "linear"] = "log"


@dataclass(frozen=True)
class Templates:
    """What stands around what is asked; None, or a caption's length left out: the model can't be asked that.

    ``query_suffixes``: how often the suffix of a query comes; where that is twice, the first ends its prefill and the
    second starts its answer. ``question_lead`` and ``object_lead``: put before the words of the user.
    """

    caption: Mapping[str, Piece] = field(
        default_factory=lambda: {
            "short": (1, 32708, 2, 12492, 3),
            "normal": (1, 32708, 2, 6382, 3),
            "long": (1, 32708, 2, 4059, 3),
        }
    )
    query: tuple[Piece, Piece] | None = ((1, 15381, 2), (3,))
    detect: tuple[Piece, Piece] | None = ((1, 7235, 476, 2), (3,))
    point: tuple[Piece, Piece] | None = ((1, 2581, 2), (3,))
    query_suffixes: int = 2
    question_lead: str = ""
    object_lead: str = " "

    def overlaid(self, section: Mapping[str, Any]) -> Templates:
        """With the ``templates`` of a config.json in their places; what it lacks stays."""
        known: dict[str, Any] = {}
        if "caption" in section:
            known["caption"] = {length: _piece(piece) for length, piece in (section["caption"] or {}).items()}
        for task in ("query", "detect", "point"):
            if task in section:
                around = section[task]
                known[task] = around and (_piece(around["prefix"]), _piece(around["suffix"]))
        return replace(self, **known)


@dataclass(frozen=True)
class TokenizerConfig:
    """Ids with a meaning of their own, and the templates of the prompts.

    ``answer_id``: starts an answer and can't come later; None: there is no such id. ``end_ids``: end a text as
    ``eos_id`` does. ``before_image``: between BOS and the picture. ``strips``: blanks around a text are cut off.
    """

    bos_id: int = 0
    eos_id: int = 0
    answer_id: int | None = 3
    coord_id: int = 5
    size_id: int = 6
    end_ids: tuple[int, ...] = ()
    before_image: tuple[int, ...] = ()
    strips: bool = False
    templates: Templates = field(default_factory=Templates)


@dataclass(frozen=True)
class MoondreamConfig:
    """The whole network; ``region`` is None where it can't tell places."""

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    region: RegionConfig | None = RegionConfig()
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
        """Positions before the prompt: BOS, what follows it, and the picture's patches."""
        return 1 + len(self.tokenizer.before_image) + self.vision.grid**2

    @classmethod
    def read(cls, path: Path, defaults: MoondreamConfig | None = None) -> MoondreamConfig:
        """The configuration in a config.json: what stands under its key ``config``, or the decoder of a file of 2024.

        Missing keys take the defaults: those of 2025-06-21, if none are given.

        Raises:
            ValueError: the file is no JSON object, or the numbers contradict each other.
        """
        return (defaults or cls()).overlaid(read_json(path))

    def overlaid(self, content: Mapping[str, Any]) -> MoondreamConfig:
        """With the numbers of a config.json's content in their places.

        Raises:
            ValueError: the numbers contradict each other.
        """
        sections = dict(content.get("config") or {})
        tokenizer = dict(sections.get("tokenizer") or {})
        tokenizer["templates"] = self.tokenizer.templates.overlaid(tokenizer.get("templates") or {})
        text = _phi(content.get("text_config") or content.get("phi_config") or {}) | dict(sections.get("text") or {})
        return type(self)(
            text=_overlaid(self.text, text),
            vision=_overlaid(self.vision, sections.get("vision") or {}),
            region=self.region and _overlaid(self.region, sections.get("region") or {}),
            tokenizer=_overlaid(self.tokenizer, tokenizer),
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model {path.parent}: {path.name} is no JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"model {path.parent}: {path.name} holds no object; fetch it again")
    return content


def _overlaid(section: Section, values: Mapping[str, Any]) -> Section:
    # The files carry keys of the training code (group_size and the like) that say nothing about inference.
    known = {f.name for f in fields(section)}  # type: ignore[arg-type]
    given = {name: _piece(value) for name, value in values.items() if name in known}
    return replace(section, **given)  # type: ignore[type-var]


def _piece(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _phi(section: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: [section[theirs] for theirs in names if section.get(theirs)] for name, names in PHI_NAMES.items()}
    return {name: values[0] for name, values in found.items() if values}
