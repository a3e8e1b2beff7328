"""Every number of the network. The defaults are those of Moondream 2B, release 2025-06-21.

Source of the numbers: moondream/torch/config.py and rope.py @ 44146f1 (github.com/vikhyat/moondream).
``checkpoints/releases.py`` has the numbers in which other generations differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

Section = TypeVar("Section")

# Part of a prompt: token ids, or text. Texts that follow each other are encoded as one text.
PromptPart = tuple[int, ...] | str
# How a picture is cut: into overlapping tiles (2025), into 1 x 1 to 2 x 2 tiles (2024), or not at all (early 2024).
TilingMode = Literal["overlapping", "four sizes", "none"]

# The keys of the decoder's numbers in a config.json of 2024, the key of the latest release first.
PHI_KEYS = {
    "dim": ("hidden_size", "n_embd"),
    "ff_dim": ("intermediate_size", "n_inner"),
    "n_layers": ("num_hidden_layers", "n_layer"),
    "n_heads": ("num_attention_heads", "n_head"),
    "n_kv_heads": ("num_key_value_heads", "num_attention_heads", "n_head"),
    "max_context": ("max_position_embeddings", "n_positions"),
    "vocab_size": ("vocab_size",),
}


@dataclass(frozen=True)
class MoeConfig:
    """The mixture of experts in the blocks from ``start_layer`` on. The defaults are those of Moondream 3.

    ``float8``: whether the weights of the experts are float8, with a scale for each row.
    """

    num_experts: int = 64
    start_layer: int = 4
    experts_per_token: int = 8
    expert_inner_dim: int = 1024
    float8: bool = False


@dataclass(frozen=True)
class TextConfig:
    """The decoder. ``prefix_attn``: the first positions (BOS and picture) that attend to each other both ways; or 0.

    ``tau``: whether attention scales queries and values, see ``decoder/tau.py``. ``moe``: None if all blocks are dense.

    Raises:
        ValueError: if tau attention is to have fewer heads of keys and values than of queries.
    """

    dim: int = 2048
    ff_dim: int = 8192
    n_layers: int = 24
    n_heads: int = 32
    n_kv_heads: int = 32
    max_context: int = 2048
    prefix_attn: int = 730
    vocab_size: int = 51200
    rope_theta: float = 10000.0
    tau: bool = False
    moe: MoeConfig | None = None

    def __post_init__(self) -> None:
        if self.tau and self.n_kv_heads != self.n_heads:
            raise ValueError(
                f"config: n_kv_heads {self.n_kv_heads}: give {self.n_heads}, the number of heads (n_heads)"
            )

    def with_overrides(self, values: Mapping[str, Any]) -> TextConfig:
        """Return a copy with the ``text`` section of a config.json. A decoder without experts skips the key ``moe``."""
        moe = self.moe and _with_overrides(self.moe, values.get("moe") or {})
        return _with_overrides(self, {**values, "moe": moe})

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.n_heads

    @property
    def rotary_dim(self) -> int:
        """Channels of a head with a rotary embedding: the first half."""
        return self.head_dim // 2


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder. ``crop_size``: side of a crop in pixels. ``overlap_margin``: in patches."""

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
    tiling: TilingMode = "overlapping"
    norm_eps: float = 1e-5
    gelu: Literal["tanh", "none"] = "tanh"

    @property
    def grid(self) -> int:
        """Patches along one side of a crop: a crop has grid * grid patches."""
        return self.crop_size // self.enc_patch_size

    @property
    def margin_pixels(self) -> int:
        """Pixels at each side of a tile that its neighbour also covers: ``overlap_margin`` in pixels."""
        return self.overlap_margin * self.enc_patch_size

    @property
    def tile_stride(self) -> int:
        """Pixels from the start of one tile to the start of the next."""
        return self.crop_size - 2 * self.margin_pixels

    @property
    def proj_in_dim(self) -> int:
        """Input channels of the projection for one patch: of the global crop, and of the tiles if there are any."""
        return self.enc_dim if self.tiling == "none" else 2 * self.enc_dim


@dataclass(frozen=True)
class RegionConfig:
    """The encoders and decoders of coordinates and sizes. ``size_out_dim``: width bins and height bins together.

    ``inner_dim``: inner channels of the decoders; None if the decoders have one layer. ``norm``: whether they read a
    norm of the hidden state. ``next_object``: what announces another object after the first: any token except the end
    token, or a coordinate that is at least as likely as the end token.
    """

    dim: int = 2048
    coord_feat_dim: int = 256
    coord_out_dim: int = 1024
    size_feat_dim: int = 512
    size_out_dim: int = 2048
    inner_dim: int | None = 8192
    size_scale: Literal["log", "linear"] = "log"
    norm: bool = False
    next_object: Literal["any token", "coordinate"] = "any token"


@dataclass(frozen=True)
class Templates:
    """The prompts of each task, around the words of the user. The model does not support a task that is None.

    ``caption``: the prompt of each length that the model supports. ``query``, ``detect``, ``point``: prefix and suffix.
    ``query_suffixes``: how often the suffix of a query is repeated. The reference feeds the suffix at the end of the
    prefill and again as the first input of the answer. ``thinking_id``: replaces the last suffix of a query with
    reasoning; None if the model does not reason. ``before_question``, ``before_object``: text directly before the words
    of the user.
    """

    caption: Mapping[str, PromptPart] = field(
        default_factory=lambda: {
            "short": (1, 32708, 2, 12492, 3),
            "normal": (1, 32708, 2, 6382, 3),
            "long": (1, 32708, 2, 4059, 3),
        }
    )
    query: tuple[PromptPart, PromptPart] | None = ((1, 15381, 2), (3,))
    detect: tuple[PromptPart, PromptPart] | None = ((1, 7235, 476, 2), (3,))
    point: tuple[PromptPart, PromptPart] | None = ((1, 2581, 2), (3,))
    query_suffixes: int = 2
    thinking_id: int | None = 4
    before_question: str = ""
    before_object: str = " "

    def with_overrides(self, section: Mapping[str, Any]) -> Templates:
        """Return a copy with the ``templates`` section of a config.json, which may have a ``thinking_id``.

        Tasks that the section lacks keep their templates.
        """
        known: dict[str, Any] = {"thinking_id": section.get("thinking_id", self.thinking_id)}
        if "caption" in section:
            known["caption"] = {length: _as_tuple(ids) for length, ids in (section["caption"] or {}).items()}
        for task in ("query", "detect", "point"):
            if task in section:
                parts = section[task]
                known[task] = parts and (_as_tuple(parts["prefix"]), _as_tuple(parts["suffix"]))
        return replace(self, **known)


@dataclass(frozen=True)
class TokenizerConfig:
    """Token ids with a special meaning, and the templates of the prompts.

    ``answer_id``: starts an answer and may be its first token only, and ends a reasoning; None if the model has no such
    id. ``start_ground_points_id``, ``end_ground_id``: around a part of a reasoning that points. ``end_ids``: end texts,
    in addition to ``eos_id``. ``before_image``: ids between BOS and the picture. ``strips_whitespace``: whether answers
    lose the whitespace at both ends.
    """

    bos_id: int = 0
    eos_id: int = 0
    answer_id: int | None = 3
    coord_id: int = 5
    size_id: int = 6
    start_ground_points_id: int = 7
    end_ground_id: int = 9
    end_ids: tuple[int, ...] = ()
    before_image: tuple[int, ...] = ()
    strips_whitespace: bool = False
    templates: Templates = field(default_factory=Templates)


@dataclass(frozen=True)
class MoondreamConfig:
    """The whole network. ``region`` is None if the model has no coordinates: no Detect and no Point.

    Raises:
        ValueError: if the numbers contradict each other.
    """

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    region: RegionConfig | None = RegionConfig()
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)

    def __post_init__(self) -> None:
        if self.text.prefix_attn not in (0, self.prefix_length):
            raise ValueError(
                f"config: prefix_attn {self.text.prefix_attn}: give {self.prefix_length}, which is BOS and "
                f"{self.vision.grid**2} patches, or 0 for causal attention"
            )
        if self.vision.tile_stride <= 0:
            raise ValueError(
                f"config: overlap_margin {self.vision.overlap_margin}: give less than half of the "
                f"{self.vision.grid} patches of a crop"
            )

    @property
    def prefix_length(self) -> int:
        """Positions of the image prefix: BOS, ``before_image`` and the patches of one crop."""
        return 1 + len(self.tokenizer.before_image) + self.vision.grid**2

    def with_overrides(self, content: Mapping[str, Any]) -> MoondreamConfig:
        """Return a copy with the numbers in the content of a config.json.

        They are under the key ``config``. A file of 2024 has the decoder under ``text_config`` or ``phi_config``.

        Raises:
            ValueError: if the numbers contradict each other.
        """
        sections = dict(content.get("config") or {})
        tokenizer = dict(sections.get("tokenizer") or {})
        # The id stands beside the templates in the file.
        thinking = {"thinking_id": tokenizer.get("thinking_id", self.tokenizer.templates.thinking_id)}
        templates = (tokenizer.get("templates") or {}) | thinking
        tokenizer["templates"] = self.tokenizer.templates.with_overrides(templates)
        text = _phi_numbers(content.get("text_config") or content.get("phi_config") or {}) | dict(
            sections.get("text") or {}
        )
        return type(self)(
            text=self.text.with_overrides(text),
            vision=_with_overrides(self.vision, sections.get("vision") or {}),
            region=self.region and _with_overrides(self.region, sections.get("region") or {}),
            tokenizer=_with_overrides(self.tokenizer, tokenizer),
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: if the file is not JSON, or holds something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model {path.parent}: {path.name} is not JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"model {path.parent}: {path.name} holds no JSON object; fetch the file again")
    return content


def _with_overrides(section: Section, values: Mapping[str, Any]) -> Section:
    # Unknown keys are skipped: official files carry keys of the training code, such as group_size.
    known = {f.name for f in fields(section)}  # type: ignore[arg-type]
    given = {name: _as_tuple(value) for name, value in values.items() if name in known}
    return replace(section, **given)  # type: ignore[type-var]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _phi_numbers(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of the decoder in a ``text_config`` or ``phi_config``, by the names of ``TextConfig``."""
    found = {name: [section[key] for key in keys if section.get(key)] for name, keys in PHI_KEYS.items()}
    return {name: values[0] for name, values in found.items() if values}
