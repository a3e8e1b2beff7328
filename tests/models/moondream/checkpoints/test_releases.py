"""Each release is identified by its files or by the user; a release that is not certain is an error."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from moondream_beam.models.moondream.checkpoints.releases import GENERATIONS, RELEASES, identify
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.network.prompts import prompt_ids, supported_tasks
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Request, Sampling

CPU = torch.device("cpu")
WORDS = {"bos_id": 0, "eos_id": 0, "answer_id": 3}
EARLY = 'prompt = f"<image>\\n\\nQuestion: {question}\\n\\nAnswer: "\neos_text="<END>"\ndef batch_answer(): ...'
MIDDLE = 'prompt = f"<image>\\n\\nQuestion: {question}\\n\\nAnswer:"\neos_text="<END>"\ndef batch_answer(): ...'
LATER = 'prompt = f"<image>\\n\\nQuestion: {question}\\n\\nAnswer:"\ndef batch_answer(): ...'


def test_every_release_belongs_to_one_generation():
    tags = ["03-04", "03-05", "03-06", "03-13", "04-02", "05-08", "05-20", "07-23", "08-26"]
    of_2025 = ["2025-01-09", "2025-03-27", "2025-04-14", "2025-06-21"]
    of_3 = ["3-preview-2025-09-11", "3-preview-2026-02-10", "3.1-2026-07-08"]
    assert list(RELEASES) == [*(f"2024-{tag}" for tag in tags), *of_2025, *of_3]
    names = [
        "2024-03-04",
        "2024-03-13",
        "2024-04-02",
        "2024-05-20",
        "2024-08-26",
        "2025-01-09",
        "2025-03-27",
        "2025-06-21",
        *of_3,
    ]
    assert [generation.name for generation in GENERATIONS] == names


@pytest.mark.parametrize("family, name", [("2024 tiled", "2024-05-20"), ("2024 tiled, unused region", "2024-08-26")])
def test_some_generations_are_identified_by_their_tensors_alone(tmp_path, family, name):
    assert identify(family, {}, tmp_path, None, None).name == name


@pytest.mark.parametrize(
    "family, code, name",
    [
        ("2024 global", EARLY, "2024-03-04"),
        ("2024 global", MIDDLE, "2024-03-13"),
        ("2024 global", LATER, "2024-04-02"),
        ("2025", 'Tokenizer.from_pretrained("vikhyatk/moondream2", revision="2024-08-26")', "2025-01-09"),
        ("2025", 'Tokenizer.from_pretrained("vikhyatk/moondream2", revision="2025-01-09")', "2025-03-27"),
        ("2025", 'Tokenizer.from_pretrained("moondream/starmie-v1")', "2025-06-21"),
    ],
)
def test_others_are_identified_by_the_code_file(tmp_path, family, code, name):
    (tmp_path / "moondream.py").write_text(f"raise SystemExit  # it is never run\n{code}\n")
    assert identify(family, {}, tmp_path, None, None).name == name


def test_release_2025_06_21_is_identified_by_control_tokens_in_its_config(tmp_path):
    assert identify("2025", {"config": {"tokenizer": WORDS}}, tmp_path, None, None).name == "2025-06-21"


def test_release_2025_06_21_is_identified_by_its_tokenizer(tmp_path, golden):
    assert identify("2025", {"config": {}}, tmp_path, None, golden.folder / "tokenizer.json").name == "2025-06-21"


@pytest.mark.parametrize("release", RELEASES)
def test_a_given_release_decides(tmp_path, release):
    assert release in identify(RELEASES[release].family, {}, tmp_path, release, None).releases


@pytest.mark.parametrize("code", [None, "text of no release"])
@pytest.mark.parametrize(
    "family, names",
    [("2024 global", "2024-03-04, 2024-03-13, 2024-04-02"), ("2025", "2025-01-09, 2025-03-27, 2025-06-21")],
)
def test_an_unknown_release_is_refused_with_the_option_that_names_it(tmp_path, family, names, code):
    if code:
        (tmp_path / "moondream.py").write_text(code)
    with pytest.raises(
        ValueError,
        match=f"fit the releases {names}, and .*; put the files in a folder or a bucket, and give --revision REL",
    ):
        identify(family, {"config": {"tokenizer": {"bos_id": 50256}}}, tmp_path, None, None)


def test_a_release_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no release 2025-06-22; choose 2024-03-04, "):
        identify("2025", {}, tmp_path, "2025-06-22", None)


def test_a_release_that_does_not_fit_the_tensors_is_refused(tmp_path):
    fitting = "choose 2025-01-09, 2025-03-27, 2025-04-14, 2025-06-21"
    with pytest.raises(ValueError, match=f"do not fit release 2024-08-26; {fitting}"):
        identify("2025", {}, tmp_path, "2024-08-26", None)


# The prompts of the tasks that a release supports: numbers of moondream/torch/config.py at its commit.
PROMPTS = {
    "2025-01-09": {
        Caption("short"): [198, 198, 16438, 8305, 25],
        Caption("normal"): [198, 198, 24334, 1159, 25],
        Query("dog"): [198, 198, 24361, 25, "dog", 198, 198, 33706, 25],
        Detect("dog"): [198, 198, 47504, 25, "dog", 628],
        Point("dog"): [198, 198, 12727, 25, "dog", 628],
    },
    "2025-04-14": {
        Caption("short"): [198, 198, 16438, 8305, 25],
        Caption("normal"): [198, 198, 24334, 1159, 25],
        Caption("long"): [198, 198, 14617, 8305, 25],
        Query("dog"): [198, 198, 24361, 25, " dog", 198, 198, 33706, 25],
        Detect("dog"): [198, 198, 47504, 25, " dog", 628],
        Point("dog"): [198, 198, 12727, 25, " dog", 628],
    },
    "2025-06-21": {
        Caption("short"): [1, 32708, 2, 12492, 3],
        Caption("normal"): [1, 32708, 2, 6382, 3],
        Caption("long"): [1, 32708, 2, 4059, 3],
        Query("dog"): [1, 15381, 2, "dog", 3, 3],
        Detect("dog"): [1, 7235, 476, 2, " dog", 3],
        Point("dog"): [1, 2581, 2, " dog", 3],
    },
}


@pytest.mark.parametrize("release, task", [(release, task) for release, prompts in PROMPTS.items() for task in prompts])
def test_prompts_have_the_ids_of_their_release(golden, release, task):
    tokenizer, templates = golden.engine.tokenizer, RELEASES[release].config.tokenizer.templates
    wanted = []
    for part in PROMPTS[release][task]:
        wanted += tokenizer.encode(part) if isinstance(part, str) else [part]
    assert prompt_ids(task, templates, tokenizer) == wanted


def test_january_2025_has_no_long_caption(golden):
    templates = RELEASES["2025-01-09"].config.tokenizer.templates
    with pytest.raises(ValueError, match="has no long caption; choose short, normal"):
        prompt_ids(Caption("long"), templates, golden.engine.tokenizer)


def test_the_supported_tasks_of_each_release():
    known = {release: supported_tasks(RELEASES[release].config.tokenizer.templates) for release in RELEASES}
    assert {release for release, tasks in known.items() if tasks == {Query}} == {
        release for release in RELEASES if release < "2024-08-26"
    }
    assert known["2024-08-26"] == {Caption, Query}
    assert all(known[release] == {Caption, Query, Detect, Point} for release in RELEASES if release > "2025")


@pytest.fixture
def folder(toy_folder, tmp_path):
    return shutil.copytree(toy_folder, tmp_path / "copy")


def set_tokenizer(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    content["config"]["tokenizer"].update(changes)
    (folder / "config.json").write_text(json.dumps(content))


def detect(checkpoint, picture):
    engine = Engine(checkpoint, CPU, torch.float32)
    (outcome,) = engine.answer([Request("1", picture, Detect("dog", 1))])
    return outcome.result.objects


def test_sizes_are_linear_before_march_2025_and_logarithmic_since(folder, toy_pictures):
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.text.lm_head.bias", "model.region.size_decoder.fc2.bias"):
        tensors[name].zero_()
    tensors["model.text.lm_head.bias"][0] = -1e4
    # For every picture: bin 16 of 64 for widths and bin 32 for heights.
    tensors["model.region.size_decoder.fc2.bias"][[16, 64 + 32]] = 1e4
    save_file(tensors, folder / "model.safetensors")
    (linear,) = detect(Checkpoint.at(folder, release="2025-01-09"), toy_pictures[0])
    (log,) = detect(Checkpoint.at(folder, release="2025-03-27"), toy_pictures[0])
    assert log == detect(Checkpoint.at(folder), toy_pictures[0])[0]
    centre = (log.x_min + log.x_max) / 2, (log.y_min + log.y_max) / 2
    width, height = 16 / 64, 32 / 64
    corners = (centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2)
    assert linear == pytest.approx([min(1, max(0, corner)) for corner in corners], abs=1e-6)
    assert log.x_max - log.x_min == pytest.approx(2 ** (16 / 63 * 10 - 10), abs=1e-6)


@pytest.mark.parametrize("answer_id, count", [(3, 1), (None, 6)])
def test_the_answer_id_is_masked_after_the_first_token_if_there_is_one(folder, toy_pictures, answer_id, count):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.text.lm_head.bias"][3] = 1e4
    save_file(tensors, folder / "model.safetensors")
    set_tokenizer(folder, answer_id=answer_id)
    engine = Engine(Checkpoint.at(folder, release="2025-03-27"), CPU, torch.float32)
    seen = []
    engine.tokenizer.decode = lambda ids: str(seen.extend(ids))
    list(engine.answer([Request("1", toy_pictures[0], Query("dog"), Sampling(max_tokens=6, temperature=0))]))
    assert seen.count(3) == count


def test_the_revision_changes_with_the_generation(folder):
    revisions = {Checkpoint.at(folder, release=name).revision for name in ("2025-01-09", "2025-03-27", "2025-06-21")}
    assert len(revisions) == 3
    assert Checkpoint.at(folder, release="2025-04-14").revision in revisions
    assert Checkpoint.at(folder).revision == Checkpoint.at(folder, release="2025-06-21").revision


def test_the_tokenizer_of_another_generation_is_refused(folder):
    words = json.loads((folder / "tokenizer.json").read_text())
    for token in words["added_tokens"]:
        if token["content"] == "<|endoftext|>":
            token["content"] = "!"
    words["model"]["vocab"]["!"], words["model"]["vocab"]["<|endoftext|>"] = 0, words["model"]["vocab"]["!"]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    message = "tokenizer.json belongs to other weights than these: its id 0 is '!', not '<|endoftext|>'"
    with pytest.raises(ValueError, match=re.escape(message) + ".*starmie-v1.*--tokenizer PATH"):
        Checkpoint.at(folder)


def test_a_tokenizer_with_more_tokens_than_the_weights_is_refused(folder):
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"]["one more"] = 608
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match="tokenizer.json has 609 tokens and the weights have 608; .* --tokenizer PATH"):
        Checkpoint.at(folder)
