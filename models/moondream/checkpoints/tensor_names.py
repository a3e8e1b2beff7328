"""The names of a checkpoint's tensors: from the names in this network to the names in the file.

After moondream/torch/weights.py @ 44146f1, and moondream/vision_encoder.py, modeling_phi.py and region_model.py
@ 211cc2f (github.com/vikhyat/moondream).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
# Generations that names and shapes alone distinguish. Those of 2024 project the global crop alone, or global crop and
# tiles; one of them carries region tensors that its code does not use.
Family = Literal["2024 global", "2024 tiled", "2024 tiled, unused region", "2025"]

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
# Further rules for the decoder.
MIXER_RULES = {".attn.qkv.": ".mixer.Wqkv.", ".attn.proj.": ".mixer.out_proj."}
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
MOONDREAM_3_PARTS = (".moe_quant.", ".mlp.experts.", ".mlp.output_experts.", ".tau_", ".mlp.router.", ".tau.")
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
            ValueError: if the tensors belong to Moondream 3, are packed to 4 bits, or belong to another model.
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
        bare = _legacy_name(name) if self.legacy else name
        return self.file_names.get(bare, self.wrapper + bare)

    def is_transposed(self, name: str) -> bool:
        """Return whether the file holds this network's tensor ``name`` with its two dimensions swapped."""
        return self.legacy and name in TRANSPOSED_2024

    @property
    def unused(self) -> set[str]:
        """Names in the file of ``UNUSED_REGION_TENSORS``, or no names if ``family`` has none of them."""
        if self.family != "2024 tiled, unused region":
            return set()
        return {self.file_names.get(name, self.wrapper + name) for name in UNUSED_REGION_TENSORS}


def _without_wrappers(name: str) -> str:
    name = name.replace(COMPILED_PART, "")
    return name.removeprefix(WRAPPER_PREFIX)


def _legacy_name(name: str) -> str:
    """Return the name of 2024 for a name of this network."""
    rules = RULES_2024 | MIXER_RULES if name.startswith("text.") else RULES_2024
    for new, old in rules.items():
        if (new in name) if new.startswith(".") else name.startswith(new):
            name = name.replace(new, old, 1)
    return name


def _family(shapes: Mapping[str, Shape], legacy: bool) -> Family:
    if not legacy or "region_model.coordinate_encoder.weight" in shapes:
        return "2025"
    if "region_model.position_encoder.weight" in shapes:
        return "2024 tiled, unused region"
    projection = shapes.get("vision_encoder.projection.mlp.fc1.weight", ())
    encoder = shapes.get("vision_encoder.encoder.model.visual.norm.weight", ())
    return "2024 global" if projection[1:] == encoder else "2024 tiled"


def _refuse_other_models(shapes: Mapping[str, Shape]) -> None:
    """Raise a ValueError if the names are not those of Moondream 2 in 16 or 32 bits."""
    if any(part in f"{name}." for name in shapes for part in MOONDREAM_3_PARTS):
        raise ValueError("these are weights of Moondream 3, which is not supported; choose a Moondream 2")
    if any(name.endswith(PACKED_SUFFIX) for name in shapes):
        raise ValueError(
            "the weights are packed to 4 bits, which is not supported; choose a checkpoint in 16 or 32 bits"
        )
    starts = ("vision.", "text.", "region.", "vision_encoder.", "text_model.", "region_model.")
    if not any(_without_wrappers(name).startswith(starts) for name in shapes):
        first = f"the first of {len(shapes)} is {min(shapes)}" if shapes else "the file has no tensors"
        raise ValueError(f"the tensors are not those of a Moondream 2 ({first}); choose a Moondream 2")
