"""What the tensors of a checkpoint are called: one rule for each naming, from the network's names to the file's.

After moondream/torch/weights.py @ 44146f1, and moondream/vision_encoder.py, modeling_phi.py and region_model.py
@ 211cc2f (github.com/vikhyat/moondream).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
# What names and shapes alone tell: the crops of a picture that the projection reads, and what knows places.
Family = Literal["whole", "whole and tiles", "whole and tiles, first places", "2025"]

# From 2024 on, in the order in which they are tried; what no rule names keeps its name.
RULES_2024 = {
    "vision.patch_emb.": "vision_encoder.encoder.model.visual.patch_embed.linear.",
    "vision.pos_emb": "vision_encoder.encoder.model.visual.pos_embed",
    "vision.post_ln.": "vision_encoder.encoder.model.visual.norm.",
    "vision.proj_mlp.": "vision_encoder.projection.mlp.",
    "vision.": "vision_encoder.encoder.model.visual.",
    ".ln1.": ".norm1.",
    ".ln2.": ".norm2.",
    "text.wte": "text_model.transformer.embd.wte.weight",
    "text.post_ln.": "text_model.lm_head.ln.",
    "text.lm_head.": "text_model.lm_head.linear.",
    "text.blocks.": "text_model.transformer.h.",
    "region.coord_features": "region_model.coordinate_features.weight",
    "region.size_features": "region_model.size_features.weight",
    "region.coord_": "region_model.coordinate_",
    "region.size_": "region_model.size_",
}
MIXER_RULES = {".attn.qkv.": ".mixer.Wqkv.", ".attn.proj.": ".mixer.out_proj."}
TRANSPOSED_2024 = ("region.coord_features", "region.size_features")
# The checkpoints of 2024-08-26 carry a first attempt at places, which their code has no use for yet.
FIRST_PLACES = frozenset(
    [f"region_model.{kind}_features.weight" for kind in ("position", "size")]
    + [
        f"region_model.{layer}.{part}"
        for layer in ("position_encoder", "size_encoder", "position_decoder", "size_decoder", "confidence_decoder")
        for part in ("weight", "bias")
    ]
)
# Wrappers that saving leaves in the names: of torch.compile, and of the class for transformers.
COMPILED, WRAPPED = "._orig_mod", "model."
MOONDREAM_3 = (".moe_quant.", ".mlp.experts.", ".mlp.output_experts.", ".tau_", ".mlp.router.", ".tau.")
PACKED = ".packed"


@dataclass(frozen=True)
class Naming:
    """The names of one file. ``raw``: name without wrappers to the name in the file."""

    family: Family
    raw: Mapping[str, str]
    old: bool
    wrapper: str

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> Naming:
        """Find out from the names and shapes of all tensors of a checkpoint.

        Raises:
            ValueError: they are those of another model.
        """
        _refuse_others(shapes)
        raw: dict[str, str] = {}
        for name in sorted(shapes):
            raw.setdefault(_bare(name), name)
        old = any(name.startswith(("vision_encoder.", "text_model.", "region_model.")) for name in raw)
        wrapper = WRAPPED if any(name.startswith(WRAPPED) for name in shapes) else ""
        return cls(_family({name: shapes[theirs] for name, theirs in raw.items()}, old), raw, old, wrapper)

    def in_file(self, name: str) -> str:
        """The name in the file, or the one that is missing there, of a tensor of the network."""
        bare = _spell_2024(name) if self.old else name
        return self.raw.get(bare, self.wrapper + bare)

    def is_transposed(self, name: str) -> bool:
        """Whether the file holds a tensor of the network with its dimensions the other way round."""
        return self.old and name in TRANSPOSED_2024

    @property
    def idle(self) -> set[str]:
        """Names in the file of tensors that are known, and that nothing is done with."""
        if self.family != "whole and tiles, first places":
            return set()
        return {self.raw.get(name, self.wrapper + name) for name in FIRST_PLACES}


def _bare(name: str) -> str:
    name = name.replace(COMPILED, "")
    return name.removeprefix(WRAPPED)


def _spell_2024(name: str) -> str:
    rules = RULES_2024 | MIXER_RULES if name.startswith("text.") else RULES_2024
    for ours, theirs in rules.items():
        # A rule with a dot before it stands for a part of the name, any other for its start.
        if (ours in name) if ours.startswith(".") else name.startswith(ours):
            name = name.replace(ours, theirs, 1)
    return name


def _family(shapes: Mapping[str, Shape], old: bool) -> Family:
    if not old or "region_model.coordinate_encoder.weight" in shapes:
        return "2025"
    if "region_model.position_encoder.weight" in shapes:
        return "whole and tiles, first places"
    projection = shapes.get("vision_encoder.projection.mlp.fc1.weight", ())
    encoder = shapes.get("vision_encoder.encoder.model.visual.norm.weight", ())
    return "whole" if projection[1:] == encoder else "whole and tiles"


def _refuse_others(shapes: Mapping[str, Shape]) -> None:
    if any(part in f"{name}." for name in shapes for part in MOONDREAM_3):
        raise ValueError("these are weights of Moondream 3, which is not supported yet; choose a Moondream 2")
    if any(name.endswith(PACKED) for name in shapes):
        raise ValueError(
            "these weights are packed to 4 bits, which is not supported; choose a checkpoint in 16 or 32 bits"
        )
    starts = ("vision.", "text.", "region.", "vision_encoder.", "text_model.", "region_model.")
    if not any(_bare(name).startswith(starts) for name in shapes):
        first = f"the first of {len(shapes)} is {min(shapes)}" if shapes else "there are none"
        raise ValueError(f"the tensors are not named as those of any Moondream 2 are ({first}); is it another model?")
