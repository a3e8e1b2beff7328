"""Two networks: the reference checkpoint with outputs of the official code, and a smaller one with random weights."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint, MoondreamModel
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.engine.generate import Row, initial_output
from moondream_beam.models.moondream.engine.jobs import Job
from moondream_beam.models.moondream.engine.slots import Slots
from moondream_beam.models.moondream.network.config import MoondreamConfig, read_json
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.moondream.network.prompts import prompt_ids
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Sampling

PUBLIC = Path(__file__).parents[2] / "golden" / "public"
EXPECTED = json.loads((PUBLIC / "expected.json").read_text())
CPU = torch.device("cpu")
MAX_TOKENS, MAX_OBJECTS = EXPECTED["settings"]["max_tokens"], EXPECTED["settings"]["max_objects"]


@dataclass(frozen=True)
class Run:
    """One task on one picture in the reference: its output, and the name of its first logits in the arrays."""

    name: str
    picture: int
    task: object
    wanted: dict
    logits: str | None = None

    def __str__(self):
        return self.name

    @property
    def sampling(self):
        return Sampling(max_tokens=MAX_TOKENS, temperature=0)

    @property
    def finish_reason(self):
        return "stop" if self.wanted["ended_by"] in ("stop_id", "eos") else "length"

    @property
    def places(self):
        """The objects as in ``Row.objects``: x, y, or x, y, width, height."""
        return [
            [bins / 1024 for bins in places[:2]] + [2 ** (bins / 1023 * 10 - 10) for bins in places[2:]]
            for places in self.wanted.get("bins", [])
        ]


def runs():
    for index, image in enumerate(EXPECTED["images"]):
        for length, wanted in image["caption"].items():
            yield Run(f"img{index}.caption_{length}", index, Caption(length), wanted, f"caption_{length}")
        for number, wanted in enumerate(image["query"]):
            yield Run(f"img{index}.query{number}", index, Query(wanted["question"]), wanted, f"query_{number}")
        for kind in (Detect, Point):
            for number, wanted in enumerate(image[kind.name]):
                task = kind(wanted["object"], MAX_OBJECTS)
                yield Run(f"img{index}.{kind.name}{number}", index, task, wanted, None if number else kind.name)


RUNS = list(runs())


def pytest_generate_tests(metafunc):
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", RUNS, ids=str)
    if "picture" in metafunc.fixturenames:
        metafunc.parametrize("picture", range(len(EXPECTED["images"])), ids=[i["name"] for i in EXPECTED["images"]])


class Golden:
    """The reference checkpoint, and the outputs expected of it."""

    folder, expected, runs = PUBLIC, EXPECTED, RUNS

    @cached_property
    def arrays(self):
        return np.load(PUBLIC / "expected.npz")

    @cached_property
    def engine(self):
        return Engine(Checkpoint.at(PUBLIC), CPU, torch.float32)

    @cached_property
    def pictures(self):
        return [Image.open(PUBLIC / image["file"]).convert("RGB") for image in EXPECTED["images"]]

    @cached_property
    def crops(self):
        return [prepare_crops(picture, self.engine.config.vision) for picture in self.pictures]

    @cached_property
    def prefixes(self):
        return self.engine.encode(self.crops)

    def row(self, run):
        """The row of a run, with its prompt."""
        config = self.engine.config.tokenizer
        prompt = prompt_ids(run.task, config.templates, self.engine.tokenizer)
        return new_row(run.task, prompt, run.sampling, MAX_TOKENS)

    def decode(self, runs, model=None, num_slots=None):
        """Decode these runs in ``num_slots`` slots; None: as many as there are runs. Return their rows."""
        rows = [self.row(run) for run in runs]
        pictures = [run.picture for run in runs]
        decode_rows(model or self.engine.model, rows, [self.prefixes.slice_rows(p, p + 1) for p in pictures], num_slots)
        return rows


def decode_rows(model, rows, prefixes, num_slots=None, num_prefill_rows=None):
    """Decode every row to its end after its prefix; return the number of active rows of each step."""
    num_slots, active = num_slots or len(rows), []
    slots = Slots(
        model,
        num_slots,
        num_prefill_rows or num_slots,
        max(p.keys.shape[3] + r.num_positions for r, p in zip(rows, prefixes, strict=True)),
    )
    queue = [
        (Job(str(number), None, None, row), prefix)
        for number, (row, prefix) in enumerate(zip(rows, prefixes, strict=True))
    ]
    with torch.inference_mode():
        while queue or slots.jobs:
            if queue and not slots.waiting:
                jobs, its_prefixes = zip(*queue[: slots.num_prefill_rows], strict=True)
                queue = queue[slots.num_prefill_rows :]
                slots.prefill(jobs, its_prefixes)
                slots.admit_waiting()
            if slots.active:
                active.append(len(slots.active))
                slots.step()
    return active


def new_row(task, prompt, sampling=None, max_tokens=20, seed=0):
    """The row of a task and a prompt, greedy unless a sampling is given."""
    return Row(
        prompt=prompt,
        max_outputs=task.max_objects if isinstance(task, Detect | Point) else max_tokens,
        sampling=sampling or Sampling(temperature=0),
        random=random.Random(seed),
        next_output=initial_output(task),
        has_size=isinstance(task, Detect),
    )


@pytest.fixture(scope="session")
def golden():
    return Golden()


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
    reference = json.loads((PUBLIC / "config.json").read_text())["config"]
    config = {**TOY, "text": {**TOY["text"], **text}, "tokenizer": reference["tokenizer"]}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    shutil.copy(PUBLIC / "tokenizer.json", folder)
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
