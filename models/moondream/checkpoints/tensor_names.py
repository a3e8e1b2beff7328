"""The names of a checkpoint's tensors: from the names in this network to the names in the file.

After moondream/torch/weights.py @ 44146f1, and moondream/vision_encoder.py, modeling_phi.py and region_model.py
@ 211cc2f (github.com/vikhyat/moondream). Moondream 3.1 has names in the style of 2024.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Shape = tuple[int, ...]
# Generations that names and shapes alone distinguish. Those of 2024 project the global crop alone, or global crop and
# tiles; one of them carries region tensors that its code does not use. Moondream 3 had no norm before the region
# decoders at first. Moondream 3.1 has experts in float8.
Family = Literal[
    "2024 global", "2024 tiled", "2024 tiled, unused region", "2025", "3 without region norm", "3", "3 float8"
]

# Names of this network (first) in files of 2024 (second), applied in this order. A rule that starts with a dot replaces
# a part of the name, any other rule its start.
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
# Further rules for the decoder, and for a block of the decoder with experts.
MIXER_RULES = {".attn.qkv.": ".mixer.Wqkv.", ".attn.proj.": ".mixer.out_proj.", ".attn.tau.": ".tau_"}
EXPERT_RULES = {
    ".mlp.router.": ".gate.",
    ".mlp.fc1.weight": ".mlp.experts.weight",
    ".mlp.fc2.weight": ".mlp.output_experts.weight",
}
# The scales of float8 have these names in every style.
SCALE_RULES = {".mlp.fc1.scale": ".moe_quant.up_scale", ".mlp.fc2.scale": ".moe_quant.down_scale"}
# Before RULES_2024.
REGION_RULES_3 = {
    "region.coord_decoder.": "region_model.coordinate_head.",
    "region.size_decoder.": "region_model.size_head.",
    "region.ln.": "region_model.ln.",
}
# A file may hold both halves of a pair in one tensor, one after the other.
TAU_HALVES, FUSED_TAU = (".tau_wq", ".tau_wv"), ".tau_wqwv"
TRANSPOSED_2024 = ("region.coord_features", "region.size_features")
# Region tensors in the checkpoints of 2024-08-26. The code of that release does not use them.
UNUSED_REGION_TENSORS = frozenset(
    [f"region_model.{kind}_features.weight" for kind in ("position", "size")]
    + [
        f"region_model.{layer}.{part}"
        for layer in ("position_encoder", "size_encoder", "position_decoder", "size_decoder", "confidence_decoder")
        for part in ("weight", "bias")
    ]
)
# Added to names by torch.compile, and by the model class for transformers.
COMPILED_PART, WRAPPER_PREFIX = "._orig_mod", "model."
MOONDREAM_3_PARTS = (".tau.", ".tau_", ".mlp.router.", ".gate.", ".mlp.experts.", ".moe_quant.")
# Scales of a KV cache in float8, which this network does not have.
UNUSED_SCALE = re.compile(r"\.kv_quantizer\.[kv]_scale$")
PACKED_SUFFIX = ".packed"


@dataclass(frozen=True)
class Naming:
    """The tensor names of one checkpoint.

    ``file_names``: from each name without ``COMPILED_PART`` and without the prefix ``WRAPPER_PREFIX`` to the name in
    the file. ``legacy``: whether the names are those of 2024. ``wrapper``: ``WRAPPER_PREFIX`` if a name in the file
    starts with it, else "".
    """

    family: Family
    file_names: Mapping[str, str]
    legacy: bool
    wrapper: str

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> Naming:
        """Return the naming of a checkpoint with these tensors.

        Raises:
            ValueError: if the tensors are packed to 4 bits or belong to another model.
        """
        _refuse_other_models(shapes)
        file_names: dict[str, str] = {}
        for name in sorted(shapes):
            file_names.setdefault(_without_wrappers(name), name)
        legacy = any(name.startswith(("vision_encoder.", "text_model.", "region_model.")) for name in file_names)
        wrapper = WRAPPER_PREFIX if any(name.startswith(WRAPPER_PREFIX) for name in shapes) else ""
        family = _family({name: shapes[file_name] for name, file_name in file_names.items()}, legacy)
        return cls(family, file_names, legacy, wrapper)

    def name_in_file(self, name: str) -> str:
        """Return the name in the file of this network's tensor ``name``.

        If the file lacks that tensor, return the name that the tensor would have, with the prefix ``wrapper``.
        """
        bare = self._bare_name(name)
        return self.file_names.get(bare, self.wrapper + bare)

    def shape_in_file(self, name: str, shape: Shape) -> Shape:
        """Return the shape in the file of this network's tensor ``name``, which has ``shape`` in the network."""
        if self._is_transposed(name):
            return shape[::-1]
        return (2 * shape[0], *shape[1:]) if self._bare_name(name).endswith(FUSED_TAU) else shape

    def from_file(self, name: str, tensor: Tensor) -> Tensor:
        """Return this network's tensor ``name``, given the tensor in the file that holds it."""
        if self._is_transposed(name):
            return tensor.T.contiguous()
        if self._bare_name(name).endswith(FUSED_TAU):
            return tensor.chunk(2)[0 if name.endswith("wq") else 1].contiguous()
        return tensor

    @property
    def is_float8(self) -> bool:
        """Whether the file has a scale for each row of the experts."""
        return any(name.endswith(tuple(SCALE_RULES.values())) for name in self.file_names)

    @property
    def has_region_norm(self) -> bool:
        """Whether the file has a norm before the region decoders of Moondream 3."""
        return self._bare_name("region.ln.weight") in self.file_names

    @property
    def unused(self) -> set[str]:
        """Names in the file of tensors that the network does not have: ``UNUSED_REGION_TENSORS`` and ``UNUSED_SCALE``.

        All of ``UNUSED_REGION_TENSORS`` are included if the family has them.
        """
        unused = {name for name in self.file_names if UNUSED_SCALE.search(name)}
        if self.family == "2024 tiled, unused region":
            unused |= UNUSED_REGION_TENSORS
        return {self.file_names.get(name, self.wrapper + name) for name in unused}

    def _is_transposed(self, name: str) -> bool:
        return self.legacy and name in TRANSPOSED_2024

    def _bare_name(self, name: str) -> str:
        """Return the name, without wrappers, under which the file holds or would hold this network's tensor."""
        if not self.legacy:
            return _replaced(name, SCALE_RULES)
        rules = RULES_2024
        if name.startswith("text."):
            rules = RULES_2024 | MIXER_RULES | SCALE_RULES
            block = ".".join(name.split(".")[:3])
            if f"{_replaced(block, RULES_2024)}.gate.weight" in self.file_names:
                rules |= EXPERT_RULES
        elif self.family.startswith("3"):
            rules = REGION_RULES_3 | RULES_2024
        bare = _replaced(name, rules)
        fused = bare[: -len(TAU_HALVES[0])] + FUSED_TAU
        return fused if bare.endswith(TAU_HALVES) and fused in self.file_names else bare


def _without_wrappers(name: str) -> str:
    name = name.replace(COMPILED_PART, "")
    return name.removeprefix(WRAPPER_PREFIX)


def _replaced(name: str, rules: Mapping[str, str]) -> str:
    """Return a name after all rules that fit, in their order. See ``RULES_2024`` for what a rule is."""
    for new, old in rules.items():
        if (new in name) if new.startswith(".") else name.startswith(new):
            name = name.replace(new, old, 1)
    return name


def _family(shapes: Mapping[str, Shape], legacy: bool) -> Family:
    if any(part in f"{name}." for name in shapes for part in MOONDREAM_3_PARTS):
        if any(name.endswith(tuple(SCALE_RULES.values())) for name in shapes):
            return "3 float8"
        return "3" if {"region.ln.weight", "region_model.ln.weight"} & shapes.keys() else "3 without region norm"
    if not legacy or "region_model.coordinate_encoder.weight" in shapes:
        return "2025"
    if "region_model.position_encoder.weight" in shapes:
        return "2024 tiled, unused region"
    projection = shapes.get("vision_encoder.projection.mlp.fc1.weight", ())
    encoder = shapes.get("vision_encoder.encoder.model.visual.norm.weight", ())
    return "2024 global" if projection[1:] == encoder else "2024 tiled"


def _refuse_other_models(shapes: Mapping[str, Shape]) -> None:
    """Raise a ValueError if the names are not those of a Moondream in 8, 16 or 32 bits."""
    if any(name.endswith(PACKED_SUFFIX) for name in shapes):
        raise ValueError(
            "the weights are packed to 4 bits, which is not supported; choose a checkpoint in 16 or 32 bits"
        )
    starts = ("vision.", "text.", "region.", "vision_encoder.", "text_model.", "region_model.")
    if not any(_without_wrappers(name).startswith(starts) for name in shapes):
        first = f"the first of {len(shapes)} is {min(shapes)}" if shapes else "the file has no tensors"
        raise ValueError(f"the tensors are not those of a Moondream ({first}); choose a Moondream 2 or 3")
