"""A checkpoint loads, and gives the same answers, under each naming that Moondream 2 has had."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from moondream_beam.models.moondream.checkpoints.tensor_names import Naming
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Request, Sampling

CPU = torch.device("cpu")
# New and legacy names, from the loader of the reference: moondream/torch/weights.py @ 44146f1.
LEGACY_NAMES = [
    (r"vision\.patch_emb\.", "vision_encoder.encoder.model.visual.patch_embed.linear."),
    (r"vision\.pos_emb$", "vision_encoder.encoder.model.visual.pos_embed"),
    (r"vision\.post_ln\.", "vision_encoder.encoder.model.visual.norm."),
    (r"vision\.proj_mlp\.", "vision_encoder.projection.mlp."),
    (r"vision\.blocks\.(\d+)\.ln([12])\.", r"vision_encoder.encoder.model.visual.blocks.\1.norm\2."),
    (r"vision\.blocks\.(\d+)\.(attn|mlp)\.", r"vision_encoder.encoder.model.visual.blocks.\1.\2."),
    (r"text\.wte$", "text_model.transformer.embd.wte.weight"),
    (r"text\.post_ln\.", "text_model.lm_head.ln."),
    (r"text\.lm_head\.", "text_model.lm_head.linear."),
    (r"text\.blocks\.(\d+)\.ln\.", r"text_model.transformer.h.\1.ln."),
    (r"text\.blocks\.(\d+)\.mlp\.", r"text_model.transformer.h.\1.mlp."),
    (r"text\.blocks\.(\d+)\.attn\.qkv\.", r"text_model.transformer.h.\1.mixer.Wqkv."),
    (r"text\.blocks\.(\d+)\.attn\.proj\.", r"text_model.transformer.h.\1.mixer.out_proj."),
    (r"region\.coord_encoder\.", "region_model.coordinate_encoder."),
    (r"region\.coord_decoder\.", "region_model.coordinate_decoder."),
    (r"region\.size_encoder\.", "region_model.size_encoder."),
    (r"region\.size_decoder\.", "region_model.size_decoder."),
    (r"region\.coord_features$", "region_model.coordinate_features.weight"),
    (r"region\.size_features$", "region_model.size_features.weight"),
]


def legacy(name):
    (renamed,) = [re.sub(f"^{new}", old, name) for new, old in LEGACY_NAMES if re.match(new, name)]
    return renamed


def in_legacy_names(tensors):
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {legacy(name): tensor.T.contiguous() if "_features" in name else tensor for name, tensor in bare.items()}


def compiled(tensors):
    """With the names that ``torch.compile`` gives to blocks."""
    return {re.sub(r"(blocks|\.h)\.(\d+)\.", r"\1.\2._orig_mod.", name): tensor for name, tensor in tensors.items()}


NAMINGS = {
    "of 2025": lambda tensors: tensors,
    "of 2025, without model": lambda tensors: {name.removeprefix("model."): each for name, each in tensors.items()},
    "of 2025, compiled": compiled,
    "legacy": in_legacy_names,
    "legacy, compiled": lambda tensors: compiled(in_legacy_names(tensors)),
    "legacy, in the class of transformers": lambda tensors: {
        f"model.{name}": tensor for name, tensor in in_legacy_names(tensors).items()
    },
}


@pytest.fixture
def rename(golden, tmp_path):
    """A copy of the reference checkpoint under other names."""

    def rename(naming, change=lambda tensors: None):
        folder = shutil.copytree(golden.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("images", "expected*"))
        tensors = NAMINGS[naming](load_file(folder / "model.safetensors"))
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return rename


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_checkpoint_gives_the_same_answers_under_each_naming(golden, rename, naming):
    engine = Engine(Checkpoint.at(rename(naming)), CPU, torch.float32)
    state = golden.engine.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in engine.model.state_dict().items())
    sampling = Sampling(max_tokens=6, temperature=0)
    tasks = [Caption(), Query("What is it?"), Detect("dog", 2), Point("cat", 2)]
    requests = [Request(task.name, golden.pictures[0], task, sampling) for task in tasks]
    ours, theirs = ({each.id: each.result for each in any.answer(requests)} for any in (engine, golden.engine))
    assert ours == theirs


@pytest.mark.parametrize(
    "naming, missing",
    [
        ("of 2025", "model.text.blocks.1.attn.qkv.weight"),
        ("of 2025, without model", "text.blocks.1.attn.qkv.weight"),
        ("of 2025, compiled", "model.text.blocks.1._orig_mod.attn.qkv.weight"),
        ("legacy", "text_model.transformer.h.1.mixer.Wqkv.weight"),
        ("legacy, in the class of transformers", "model.text_model.transformer.h.1.mixer.Wqkv.weight"),
    ],
)
def test_a_missing_tensor_is_named_as_in_the_file(rename, naming, missing):
    folder = rename(naming, lambda tensors: tensors.pop(missing))
    with pytest.raises(ValueError, match=f"missing: {re.escape(missing.replace('._orig_mod', ''))}; fetch"):
        Checkpoint.at(folder)


def test_unexpected_and_misshapen_tensors_are_named_as_in_the_file(rename):
    def change(tensors):
        tensors["text_model.more"] = torch.zeros(1)
        tensors["region_model.size_features.weight"] = tensors["region_model.size_features.weight"].T.contiguous()

    with pytest.raises(ValueError) as caught:
        Checkpoint.at(rename("legacy", change))
    assert "unexpected: text_model.more; " in str(caught.value)
    assert "wrong shape: region_model.size_features.weight is [2, 256], not [256, 2]" in str(caught.value)


def test_a_tensor_under_two_names_is_unexpected(rename):
    def change(tensors):
        tensors["text.lm_head.bias"] = tensors["model.text.lm_head.bias"].clone()

    with pytest.raises(ValueError, match=r"unexpected: (model\.)?text.lm_head.bias; fetch"):
        Checkpoint.at(rename("of 2025", change))


@pytest.mark.parametrize(
    "names, message",
    [
        (["model.text.blocks.0.mlp.fc1.weight.packed"], "packed to 4 bits, which is not supported"),
        (
            ["model.layers.0.q_proj.weight", "lm_head.weight"],
            "first of 2 is lm_head.weight.; choose a Moondream 2 or 3",
        ),
        (["vision_model.embeddings"], "not those of a Moondream "),
        ([], "the file has no tensors.; choose a Moondream 2 or 3"),
    ],
)
def test_tensors_of_other_models_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        Naming.of(dict.fromkeys(names, (1,)))
