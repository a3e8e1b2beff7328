"""Checkpoints of Moondream 3: recognized by their tensors, whatever their names, and refused with a cure."""

import hashlib
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.data.golden import CPU, Golden

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints.releases import RELEASES
from moondream_beam.models.moondream.checkpoints.tensor_names import Naming
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint, MoondreamModel, Traits
from moondream_beam.models.moondream.devices import DeviceTooSmall
from moondream_beam.models.moondream.engine.memory import check_memory

PREVIEW = RELEASES["3-preview-2026-02-10"].config
# Of the lines "name, tab, shape" of all 662 tensors of the release 3-preview-2026-02-10, sorted by name.
TENSORS_SHA256 = "894a1d5929100082c623d9e6d3f9acd38ff94579569a9bbed0b5659ef2e8f31c"
# Of the lines "legacy name, tab, name" of the same tensors, sorted by name.
LEGACY_SHA256 = "157196e891646f2af6d160db3365cd6dc5d4b19333bcfcfe85fe5c0d05edf26f"


def sha256(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def full_size(config=PREVIEW):
    with torch.device("meta"):
        return MoondreamModel(config).state_dict()


def test_a_full_size_network_has_the_tensors_of_the_official_checkpoint():
    tensors = full_size()
    assert len(tensors) == 662
    assert sum(tensor.numel() for tensor in tensors.values()) == 9_268_626_928
    lines = [f"model.{name}\t{list(tensor.shape)}" for name, tensor in sorted(tensors.items())]
    assert sha256(lines) == TENSORS_SHA256
    assert Traits.of(PREVIEW).weight_bytes(torch.bfloat16) == 18_537_253_856


def legacy_shapes():
    """The tensors of Moondream 3.1: the legacy names with their shapes, and the scales of the experts."""
    blocks = [f"text_model.transformer.h.{number}" for number in range(24)]
    experts = blocks[4:]
    # Only the names of the gates decide which blocks have experts.
    gates = [f"{block}.gate.weight" for block in experts]
    naming = Naming("3", dict(zip(gates, gates, strict=True)), legacy=True, wrapper="")
    legacy = {naming.name_in_file(name): (name, tuple(tensor.shape)) for name, tensor in full_size().items()}
    shapes = {old: shape[::-1] if "_features" in old else shape for old, (_, shape) in legacy.items()}
    scales = {f"{block}.moe_quant.{part}_scale": (64, 2048) for block in experts for part in ("up", "down")}
    return legacy, shapes | scales


def test_legacy_names_map_one_to_one_to_all_tensors():
    legacy, shapes = legacy_shapes()
    assert len(legacy) == 662 and len(shapes) == 662 + 40
    lines = [f"{old}\tmodel.{new}" for old, (new, _) in sorted(legacy.items(), key=lambda pair: pair[1])]
    assert sha256(lines) == LEGACY_SHA256
    naming = Naming.of(shapes)
    assert (naming.family, naming.legacy, naming.is_float8, naming.has_region_norm) == ("3 float8", True, True, True)
    config = RELEASES["3.1-2026-07-08"].config_of({}, naming)
    used = {
        naming.name_in_file(name): naming.shape_in_file(name, tuple(tensor.shape))
        for name, tensor in full_size(config).items()
    }
    assert used == shapes


# Which generation a checkpoint is.


def checkpoint_of(golden):
    return Checkpoint.at(golden.folder, tokenizer=golden.tokenizer_path)


def test_the_tensors_identify_the_generation(golden3):
    family = {"moondream3": "3", "moondream3/noregionln": "3 without region norm", "moondream3/fp8-legacy": "3 float8"}
    checkpoint = checkpoint_of(golden3)
    assert checkpoint.naming.family == family[golden3.name]
    assert checkpoint.config.text.moe.float8 == (golden3.name == "moondream3/fp8-legacy")
    assert checkpoint.config.region.norm == (golden3.name != "moondream3/noregionln")


@pytest.fixture
def copy(tmp_path):
    """Write a copy of a checkpoint with changed tensors, and return its folder."""

    def copy(golden, change, **content):
        folder = tmp_path / "copy"
        folder.mkdir()
        shutil.copy(golden.tokenizer_path, folder)
        config = json.loads((golden.folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | content))
        tensors = load_file(golden.folder / "model.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, folder / "model.safetensors")
        return folder

    return copy


def test_the_model_type_of_moondream_2_does_not_hide_a_moondream_3(copy):
    """The first revisions of the preview had it."""
    folder = copy(Golden("moondream3"), lambda tensors: tensors, model_type="moondream1")
    assert Checkpoint.at(folder).naming.family == "3"


@pytest.fixture(scope="module")
def float8():
    return Golden("moondream3/fp8-legacy")


def fused(tensors):
    """With wq and wv of each block in one tensor."""
    pairs = [name.removesuffix("wq") for name in tensors if name.endswith(".tau_wq")]
    joined = {f"{pair}wqwv": torch.cat([tensors[f"{pair}wq"], tensors[f"{pair}wv"]]) for pair in pairs}
    return {name: tensor for name, tensor in tensors.items() if not re.search(r"\.tau_w[qv]$", name)} | joined


def compiled(tensors):
    return {re.sub(r"\.h\.(\d+)\.", r".h.\1._orig_mod.", name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("change", [fused, compiled])
def test_other_names_of_3_1_give_the_same_weights(copy, float8, change):
    state = Checkpoint.at(copy(float8, change)).load(CPU, torch.float32).state_dict()
    expected = float8.engine.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name].float(), tensor.float()) for name, tensor in expected.items())


def without_float8(tensors):
    """The same weights in bfloat16, as far as it holds them."""
    wide = {name: tensor for name, tensor in tensors.items() if ".moe_quant." not in name}
    for part, scale in (("experts", "up"), ("output_experts", "down")):
        name = f"text_model.transformer.h.1.mlp.{part}.weight"
        wide[name] = tensors[name].float() * tensors[f"text_model.transformer.h.1.moe_quant.{scale}_scale"][..., None]
    return wide


def test_legacy_names_without_float8_load(copy, float8):
    checkpoint = Checkpoint.at(copy(float8, without_float8))
    assert checkpoint.naming.family == "3"
    experts = checkpoint.load(CPU, torch.float32).text.blocks[1].mlp
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(experts(x), float8.engine.model.text.blocks[1].mlp(x), atol=1e-5)


# What is refused.


def test_a_missing_and_an_unexpected_tensor_are_named_as_in_the_file(copy, float8):
    def change(tensors):
        tensors.pop("text_model.transformer.h.1.mlp.experts.weight")
        return tensors | {"text_model.transformer.h.1.more": torch.zeros(1)}

    with pytest.raises(ValueError) as caught:
        Checkpoint.at(copy(float8, change))
    assert "missing: text_model.transformer.h.1.mlp.experts.weight;" in str(caught.value)
    assert "unexpected: text_model.transformer.h.1.more;" in str(caught.value)


def test_only_one_scale_of_two_is_refused(copy, float8):
    name = "text_model.transformer.h.1.moe_quant.down_scale"
    with pytest.raises(ValueError, match=f"missing: {re.escape(name)}"):
        Checkpoint.at(copy(float8, lambda tensors: {key: tensors[key] for key in tensors if key != name}))


def test_float8_without_scales_is_refused(copy, float8):
    folder = copy(float8, lambda tensors: {name: tensors[name] for name in tensors if ".moe_quant." not in name})
    with pytest.raises(ValueError, match="mlp.experts.weight is torch.float8_e4m3fn: experts with scales must be"):
        Checkpoint.at(folder).load(CPU, torch.float32)


def test_scales_without_float8_are_refused(copy, float8):
    folder = copy(float8, lambda tensors: without_float8(tensors) | {k: tensors[k] for k in tensors if "quant." in k})
    with pytest.raises(ValueError, match="mlp.experts.weight is torch.float32: experts with scales must be float8"):
        Checkpoint.at(folder).load(CPU, torch.float32)


def test_a_config_of_moondream_3_with_tensors_of_moondream_2_is_refused(copy, golden):
    folder = copy(golden, lambda tensors: tensors, model_type="moondream3")
    with pytest.raises(ValueError, match="config.json belongs to Moondream 3, and the tensors to Moondream 2; fetch"):
        Checkpoint.at(folder)


@pytest.mark.parametrize("is_folder", [True, False])
def test_the_pickled_float8_file_is_refused_by_name(tmp_path, is_folder):
    (tmp_path / "model_fp8.pt").write_bytes(b"pickle")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model_fp8.pt is a pickle.* never read; choose moondream/moondream3-preview"):
        Moondream(str(tmp_path if is_folder else tmp_path / "model_fp8.pt"))


def test_fewer_heads_of_keys_than_of_queries_are_refused(copy):
    large = Golden("moondream3")
    config = json.loads((large.folder / "config.json").read_text())["config"]
    config["text"]["n_kv_heads"] = 1
    with pytest.raises(ValueError, match=r"config: n_kv_heads 1: give 2, the number of heads"):
        Checkpoint.at(copy(large, lambda tensors: tensors, config=config))


# Memory.


def refusal(available, dtype, config=PREVIEW):
    with pytest.raises(DeviceTooSmall) as caught:
        check_memory("some/model", Traits.of(config), dtype, torch.device("cuda:1"), available)
    return str(caught.value)


def test_a_device_that_is_too_small_is_refused_with_what_would_fit():
    message = refusal(24 * 10**9, torch.float32)
    assert "model some/model: the weights need 37." in message and "cuda:1 has 24.0 GB free" in message
    assert "--dtype bfloat16 (19.0 GB)" in message and "moondream3.1-9B-A2B with --dtype bfloat16 (10.9 GB)" in message
    message = refusal(16 * 10**9, torch.bfloat16)
    assert "--dtype bfloat16 (19" not in message and "--model moondream/moondream3.1-9B-A2B" in message
    message = refusal(8 * 10**9, torch.bfloat16)
    assert message.endswith("8.0 GB free; choose a device with 19.0 GB free")


def test_a_device_that_is_large_enough_is_accepted():
    cpu = torch.device("cpu")
    check_memory("some/model", Traits.of(PREVIEW), torch.bfloat16, cpu, 24 * 10**9)
    float8 = RELEASES["3.1-2026-07-08"].config_of({}, Naming.of(legacy_shapes()[1]))
    check_memory("some/model", Traits.of(float8), torch.bfloat16, cpu, 16 * 10**9)


def test_moondream_2_is_checked_too():
    config = RELEASES["2025-06-21"].config
    assert "the weights need 8." in refusal(5 * 10**9, torch.float32, config)
    assert "3.1" not in refusal(5 * 10**9, torch.float32, config).replace("8.", "")
