"""A checkpoint loads under each naming that Moondream 2 has had, and answers as under its own."""

import json
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
# As the loader of the reference has them, moondream/torch/weights.py: theirs, by what they stand for.
THEIRS = [
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
    (renamed,) = [re.sub(f"^{ours}", theirs, name) for ours, theirs in THEIRS if re.match(ours, name)]
    return renamed


def in_legacy_names(tensors):
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {legacy(name): tensor.T.contiguous() if "_features" in name else tensor for name, tensor in bare.items()}


def compiled(tensors):
    """As ``torch.compile`` leaves the names of blocks."""
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
def test_a_checkpoint_answers_the_same_under_each_naming(golden, rename, naming):
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
def test_what_is_missing_is_told_in_the_names_of_the_file(rename, naming, missing):
    folder = rename(naming, lambda tensors: tensors.pop(missing))
    with pytest.raises(ValueError, match=f"missing: {re.escape(missing.replace('._orig_mod', ''))}$"):
        Checkpoint.at(folder)


def test_what_is_left_over_and_misshapen_is_told_in_the_names_of_the_file(rename):
    def change(tensors):
        tensors["text_model.more"] = torch.zeros(1)
        tensors["region_model.size_features.weight"] = tensors["region_model.size_features.weight"].T.contiguous()

    with pytest.raises(ValueError) as caught:
        Checkpoint.at(rename("legacy", change))
    assert "left over: text_model.more; " in str(caught.value)
    assert "of another shape: region_model.size_features.weight is [2, 256], not [256, 2]" in str(caught.value)


def test_the_same_tensor_under_two_names_is_one_too_many(rename):
    def change(tensors):
        tensors["text.lm_head.bias"] = tensors["model.text.lm_head.bias"].clone()

    with pytest.raises(ValueError, match=r"left over: (model\.)?text.lm_head.bias$"):
        Checkpoint.at(rename("of 2025", change))


@pytest.mark.parametrize(
    "names, message",
    [
        (["model.text.blocks.4.moe_quant.up_scale", "model.text.wte"], "Moondream 3, which is not supported yet"),
        (["text_model.transformer.h.9.mlp.experts.weight"], "Moondream 3, which is not supported yet"),
        (["text_model.transformer.h.9.tau_wq"], "Moondream 3, which is not supported yet"),
        (["model.text.blocks.0.mlp.fc1.weight.packed"], "packed to 4 bits, which is not supported"),
        (["model.layers.0.q_proj.weight", "lm_head.weight"], "first of 2 is lm_head.weight.; is it another model"),
        (["vision_model.embeddings"], "is it another model"),
        ([], "there are none.; is it another model"),
    ],
)
def test_other_models_are_refused_by_name(names, message):
    with pytest.raises(ValueError, match=message):
        Naming.of(dict.fromkeys(names, (1,)))


def test_moondream_3_is_known_by_its_configuration_too(rename):
    folder = rename("of 2025")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "model_type": "moondream3"}))
    with pytest.raises(ValueError, match="config.json is that of Moondream 3, which is not supported yet"):
        Checkpoint.at(folder)
