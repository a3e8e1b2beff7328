"""Two networks: the reference checkpoint with outputs of the official code, and a smaller one with random weights."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.data.golden import CPU, MOONDREAM_3, Golden, decode_rows, new_row

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint, MoondreamModel
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.network.config import MoondreamConfig, read_json

GOLDEN = Golden("public")


def pytest_generate_tests(metafunc):
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", GOLDEN.runs, ids=str)
    if "picture" in metafunc.fixturenames:
        names = [image["name"] for image in GOLDEN.expected["images"]]
        metafunc.parametrize("picture", range(len(names)), ids=names)


@pytest.fixture(scope="session")
def golden():
    return GOLDEN


@pytest.fixture(scope="session", params=MOONDREAM_3)
def golden3(request):
    """Each checkpoint of Moondream 3 with its expected outputs."""
    return Golden(request.param)


@pytest.fixture(scope="session")
def make_row():
    return new_row


@pytest.fixture(scope="session", name="decode_rows")
def decode_rows_fixture():
    return decode_rows


TOY = {
    "text": {
        "dim": 32,
        "ff_dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "max_context": 96,
        "prefix_attn": 17,
        "vocab_size": 608,
    },
    "vision": {
        "enc_dim": 24,
        "enc_n_layers": 2,
        "enc_ff_dim": 40,
        "enc_n_heads": 3,
        "proj_out_dim": 32,
        "proj_inner_dim": 40,
        "crop_size": 56,
        "max_crops": 6,
        "overlap_margin": 1,
    },
    "region": {
        "dim": 32,
        "coord_feat_dim": 16,
        "coord_out_dim": 64,
        "size_feat_dim": 16,
        "size_out_dim": 128,
        "inner_dim": 40,
    },
}


def write_toy(folder, seed=0, **text):
    """A checkpoint of random weights and its configuration in a folder, with the reference's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = json.loads((GOLDEN.folder / "config.json").read_text())["config"]
    config = {**TOY, "text": {**TOY["text"], **text}, "tokenizer": reference["tokenizer"]}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    shutil.copy(GOLDEN.folder / "tokenizer.json", folder)
    random_weights = torch.Generator().manual_seed(seed)
    shapes = MoondreamModel(MoondreamConfig().with_overrides(read_json(folder / "config.json"))).state_dict()
    tensors = {
        f"model.{name}": torch.randn(tensor.shape, generator=random_weights)
        * (0.1 if name.endswith("bias") else 1.0 if "wte" in name or "features" in name else tensor.shape[-1] ** -0.5)
        for name, tensor in shapes.items()
    }
    # Norms have weights near 1, so that they change their input little.
    tensors.update(
        {name: 1 + tensor * 0.1 for name, tensor in tensors.items() if "ln" in name and name.endswith("weight")}
    )
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def make_toy(tmp_path_factory):
    """Write a toy checkpoint into a folder of its own: ``make_toy(seed=0, **text dimensions)``."""
    return lambda **changes: write_toy(tmp_path_factory.mktemp("toy") / "weights", **changes)


@pytest.fixture(scope="session")
def toy_folder(make_toy):
    return make_toy()


@pytest.fixture(scope="session")
def toy(toy_folder):
    return Engine(Checkpoint.at(toy_folder), CPU, torch.float32)


@pytest.fixture(scope="session")
def toy_pictures():
    """Pictures of noise in several shapes, so that their tilings differ."""
    noise = np.random.default_rng(0)
    sizes = [(56, 56), (200, 90), (60, 300), (120, 120), (30, 500)]
    return [Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
