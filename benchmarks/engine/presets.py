"""Checkpoints of random weights in given sizes, to measure speed: it does not depend on the answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from moondream_beam.models.moondream.checkpoints.sources import EMBEDDED
from moondream_beam.models.moondream.checkpoints.weights import MoondreamModel
from moondream_beam.models.moondream.network.config import MoondreamConfig, RegionConfig, TextConfig, VisionConfig

PRESETS = {
    # The proportions of Moondream 2: a vision encoder of a third of the decoder, and the full vocabulary.
    # For the test of the benchmark: its figures mean nothing.
    "smallest": MoondreamConfig(
        TextConfig(dim=64, ff_dim=128, n_layers=2, n_heads=1, n_kv_heads=1),
        VisionConfig(enc_dim=72, enc_n_layers=2, enc_n_heads=1, enc_ff_dim=64, proj_inner_dim=64, proj_out_dim=64),
        RegionConfig(dim=64, inner_dim=64),
    ),
    "small": MoondreamConfig(
        TextConfig(dim=384, ff_dim=1536, n_layers=6, n_heads=6, n_kv_heads=6),
        VisionConfig(enc_dim=216, enc_n_layers=6, enc_n_heads=3, enc_ff_dim=808, proj_inner_dim=1536, proj_out_dim=384),
        RegionConfig(dim=384, inner_dim=1536),
    ),
    "moondream2": MoondreamConfig(),
}


def write_checkpoint(preset: str, folder: Path, dtype: torch.dtype) -> Path:
    """Write and return a checkpoint of random weights that never gives the end token, with the tiny tokenizer."""
    config = PRESETS[preset]
    sections = {name: dataclasses.asdict(getattr(config, name)) for name in ("text", "vision", "region")}
    (folder / "config.json").write_text(json.dumps({"config": sections}))
    shutil.copy(EMBEDDED["tiny"] / "tokenizer.json", folder)
    random = torch.Generator().manual_seed(0)
    tensors = {}
    with torch.device("meta"):
        shapes = MoondreamModel(config).state_dict()
    for name, tensor in shapes.items():
        weights = torch.randn(tensor.shape, generator=random, dtype=torch.float32)
        scale = 0.02 if name.endswith("bias") else tensor.shape[-1] ** -0.5
        if "ln" in name and name.endswith("weight"):
            weights, scale = torch.ones(tensor.shape), 1.0
        tensors[f"model.{name}"] = (weights * scale).to(dtype)
    tensors["model.text.lm_head.bias"][config.tokenizer.eos_id] = -1e4
    save_file(tensors, folder / "model.safetensors")
    return folder
