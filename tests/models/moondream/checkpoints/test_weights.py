"""Every tensor of a checkpoint is checked, and the revision follows the content of its files."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from moondream_beam.models.moondream.checkpoints.files import CONFIG_FILE, INDEX_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint

CPU = torch.device("cpu")
BIAS, TABLE = "model.text.lm_head.bias", "model.text.wte"


@pytest.fixture
def change(toy_folder, tmp_path):
    """A copy of the toy checkpoint, its tensors changed in place by a function."""

    def change(function):
        folder = shutil.copytree(toy_folder, tmp_path / "copy", dirs_exist_ok=True)
        tensors = load_file(folder / WEIGHTS_FILE)
        function(tensors)
        save_file(tensors, folder / WEIGHTS_FILE)
        return Checkpoint.at(folder)

    return change


def test_the_network_has_every_tensor_of_the_file(golden):
    state = golden.engine.model.state_dict()
    tensors = load_file(golden.folder / WEIGHTS_FILE)
    assert {f"model.{name}" for name in state} == set(tensors)
    assert all(torch.equal(state[name.removeprefix("model.")], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda tensors: tensors.pop(BIAS), f"missing: {BIAS}"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda tensors: tensors.update({BIAS: torch.zeros(5)}), rf"wrong shape: {BIAS} is \[5\], not \[608\]"),
        (lambda tensors: tensors.update({TABLE: tensors[TABLE].T.contiguous()}), rf"{TABLE} is \[32, 608\], not"),
    ],
    ids=["missing", "unexpected", "wrong shape", "transposed"],
)
def test_a_tensor_that_does_not_fit_is_named(change, fault, message):
    with pytest.raises(ValueError, match=message):
        change(fault)


def test_all_problems_are_named_at_once(change):
    def fault(tensors):
        tensors["other"] = tensors.pop(BIAS)

    with pytest.raises(ValueError, match=f"missing: {BIAS}; unexpected: other"):
        change(fault)


def test_of_many_missing_tensors_five_are_named_and_the_rest_counted(change):
    with pytest.raises(ValueError, match="model.region.coord_decoder.fc1.bias, .* and 9 more"):
        change(lambda tensors: [tensors.pop(name) for name in list(tensors) if ".region." in name])


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_load_as_float32(change, toy, stored):
    def halve(tensors):
        tensors.update({name: tensor.to(stored) for name, tensor in tensors.items()})

    state = change(halve).load(CPU, torch.float32).state_dict()
    for name, tensor in toy.model.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.to(stored).float())


def test_a_checkpoint_loads_in_the_given_precision(toy_folder):
    state = Checkpoint.at(toy_folder).load(CPU, torch.bfloat16).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_weights_need_no_gradient(toy):
    assert not any(weight.requires_grad for weight in toy.model.parameters())
    assert not toy.model.training


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE])
def test_a_missing_file_is_named(toy_folder, tmp_path, name):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"there is no {name}"):
        Checkpoint.at(folder)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b""])
def test_weights_of_another_format_are_refused(toy_folder, tmp_path, content):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors is truncated or no .safetensors .*fetch the file again"):
        Checkpoint.at(folder)


def test_truncated_weights_are_refused(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    whole = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match="model.safetensors is truncated"):
        Checkpoint.at(folder)


def test_the_revision_changes_with_the_weights(change, toy_folder):
    same = change(lambda tensors: None)
    other = change(lambda tensors: tensors[BIAS].add_(1e-6))
    assert same.revision == Checkpoint.at(toy_folder).revision != other.revision


@pytest.mark.parametrize("name", [CONFIG_FILE, TOKENIZER_FILE])
def test_the_revision_changes_with_configuration_and_tokenizer(toy_folder, tmp_path, name):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert Checkpoint.at(folder).revision != Checkpoint.at(toy_folder).revision


def test_a_configuration_of_another_network_is_refused(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    content = json.loads((folder / CONFIG_FILE).read_text())
    content["config"]["text"]["n_layers"] = 3
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="missing: model.text.blocks.2"):
        Checkpoint.at(folder)


@pytest.fixture
def copied(toy_folder, tmp_path):
    return shutil.copytree(toy_folder, tmp_path / "copy")


def split_into_shards(folder):
    """Replace the weights of a folder by two shards and their index."""
    tensors = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    shards = {"model-00001-of-00002.safetensors": sorted(tensors)[::2], "model-00002-of-00002.safetensors": []}
    shards["model-00002-of-00002.safetensors"] = sorted(tensors)[1::2]
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / shard)
    set_index(folder, {name: shard for shard, names in shards.items() for name in names})


def set_index(folder, entries):
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": entries}))


def test_shards_are_read_by_their_index(copied, toy):
    split_into_shards(copied)
    state = Checkpoint.at(copied).load(CPU, torch.float32).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in toy.model.state_dict().items())


def test_a_missing_shard_is_named(copied):
    split_into_shards(copied)
    (copied / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="names model-00002-of-00002.safetensors, which is not in .*; fetch"):
        Checkpoint.at(copied)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", 3])
def test_an_index_that_names_other_files_is_refused(copied, name):
    (copied / WEIGHTS_FILE).unlink()
    set_index(copied, {"model.text.wte": name})
    with pytest.raises(ValueError, match="which is not a .safetensors in its folder"):
        Checkpoint.at(copied)


@pytest.mark.parametrize("entries", [None, {}, []])
def test_an_index_without_tensors_is_refused(copied, entries):
    (copied / WEIGHTS_FILE).unlink()
    set_index(copied, entries)
    with pytest.raises(ValueError, match="has no weight_map; fetch the file again"):
        Checkpoint.at(copied)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_not_read(copied, name):
    (copied / WEIGHTS_FILE).rename(copied / name)
    with pytest.raises(ValueError, match=f"convert {name} to it: pickles may run code"):
        Checkpoint.at(copied)
    with pytest.raises(ValueError, match=f"{name} has a format that is not read; convert that file to .safetensors"):
        Checkpoint.at(copied / name)


def test_a_checkpoint_may_be_one_file(copied, toy, toy_folder):
    (copied / WEIGHTS_FILE).rename(copied / "mine.safetensors")
    checkpoint = Checkpoint.at(copied / "mine.safetensors")
    assert checkpoint.revision == Checkpoint.at(toy_folder).revision
    state = checkpoint.load(CPU, torch.float32).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in toy.model.state_dict().items())


def test_one_file_without_a_config_has_the_numbers_of_its_release(copied):
    """The toy weights do not fit the numbers of the release."""
    (copied / CONFIG_FILE).unlink()
    with pytest.raises(ValueError, match=r"vision.patch_emb.weight is \[24, 588\], not \[1152, 588"):
        Checkpoint.at(copied / WEIGHTS_FILE)


@pytest.mark.parametrize("name", ["", TOKENIZER_FILE])
def test_a_tokenizer_may_be_given_as_a_file_or_a_folder(copied, toy_folder, tmp_path, name):
    (tmp_path / "words").mkdir()
    (copied / TOKENIZER_FILE).rename(tmp_path / "words" / TOKENIZER_FILE)
    with pytest.raises(ValueError, match="there is no tokenizer.json in .*; name one with --tokenizer PATH"):
        Checkpoint.at(copied)
    checkpoint = Checkpoint.at(copied, tokenizer=tmp_path / "words" / name)
    assert checkpoint.tokenizer().encode("dog") == Checkpoint.at(toy_folder).tokenizer().encode("dog")


def test_an_unreadable_tokenizer_is_refused(copied):
    (copied / TOKENIZER_FILE).write_text("{}")
    with pytest.raises(ValueError, match="tokenizer .*tokenizer.json: cannot be read .*; fetch the file again"):
        Checkpoint.at(copied)
