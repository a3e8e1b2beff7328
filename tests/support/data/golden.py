"""Checkpoints of small random weights with outputs of the official code, and the decoding of rows without an engine."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.engine.decoding.row import Row, initial_output
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.engine.jobs import Job
from moondream_beam.models.moondream.engine.slots import Slots, run_prompts
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.moondream.network.prompts import prompt_ids
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Sampling

FOLDER = Path(__file__).parents[2] / "golden"
CPU = torch.device("cpu")
# The checkpoints of Moondream 3: with a norm before the region decoders, without it, and with experts in float8.
MOONDREAM_3 = ("moondream3", "moondream3/noregionln", "moondream3/fp8-legacy")


@dataclass(frozen=True)
class Run:
    """One task on one picture in the reference: its output, and the name of its first logits in the arrays."""

    name: str
    picture: int
    task: object
    wanted: dict
    logits: str = ""
    max_tokens: int = 20

    def __str__(self):
        return self.name

    @property
    def sampling(self):
        return Sampling(max_tokens=self.max_tokens, temperature=0)

    @property
    def finish_reason(self):
        return "stop" if self.wanted["ended_by"] in ("stop_id", "eos") else "length"

    @property
    def thoughts(self):
        """The ids and the text of the reasoning; {} without reasoning."""
        return self.wanted.get("reasoning", {})

    @property
    def is_cut(self):
        """Whether the reasoning or the answer reached its limit."""
        return "length" in (self.finish_reason, "length" if self.thoughts.get("ended_by") == "max_tokens" else "")

    @property
    def places(self):
        """The objects as in ``Row.objects``: x, y, or x, y, width, height."""
        return [
            [bins / 1024 for bins in places[:2]] + [2 ** (bins / 1023 * 10 - 10) for bins in places[2:]]
            for places in self.wanted.get("bins", [])
        ]


def runs_of(expected):
    """Yield the runs of all pictures."""
    limits = expected["settings"]
    for index, image in enumerate(expected["images"]):

        def run(name, task, wanted, logits, index=index):
            return Run(f"img{index}.{name}", index, task, wanted, logits, limits["max_tokens"])

        for length, wanted in image["caption"].items():
            yield run(f"caption_{length}", Caption(length), wanted, f"caption_{length}")
        for number, wanted in enumerate(image["query"]):
            yield run(f"query{number}", Query(wanted["question"]), wanted, f"query_{number}")
        for number, wanted in enumerate(image["query_reasoning"]):
            task = Query(wanted["question"], reasoning=True)
            yield run(f"reasoning{number}", task, reasoning_of(wanted), f"reasoning_{number}.reasoning")
        for kind in (Detect, Point):
            for number, wanted in enumerate(image[kind.name]):
                task = kind(wanted["object"], limits["max_objects"])
                yield run(f"{kind.name}{number}", task, wanted, f"{kind.name}_{number}")


def reasoning_of(wanted):
    """The outputs wanted of a run with reasoning: those of its answer, and the reasoning with its prompt."""
    return {**wanted["answer"], "reasoning": wanted["reasoning"], "prompt": wanted["reasoning"]["prompt"]}


class Golden:
    """A reference checkpoint, and the outputs expected of it."""

    def __init__(self, name, device=CPU, dtype=torch.float32):
        self.name, self.folder = name, FOLDER / name
        self.device, self.dtype = device, dtype
        self.root = FOLDER / name.split("/")[0]
        self.tokenizer_path = self.root / "tokenizer.json"
        self.expected = json.loads((self.folder / "expected.json").read_text())
        self.runs = list(runs_of(self.expected))

    @cached_property
    def arrays(self):
        return np.load(self.folder / "expected.npz")

    @cached_property
    def engine(self):
        return Engine(Checkpoint.at(self.folder, tokenizer=self.tokenizer_path), self.device, self.dtype)

    @cached_property
    def pictures(self):
        files = [self.root / "images" / Path(image["file"]).name for image in self.expected["images"]]
        return [Image.open(file).convert("RGB") for file in files]

    @cached_property
    def crops(self):
        return [prepare_crops(picture, self.engine.config.vision) for picture in self.pictures]

    @cached_property
    def prefixes(self):
        return self.engine.encode(self.crops)

    def first_logits(self, run):
        """The logits after the prompt of a run; None if the reference has none."""
        names = [f"img{run.picture}.{name}.first_logits" for name in (run.logits, run.logits.removesuffix("_0"))]
        return next((torch.from_numpy(self.arrays[name]) for name in names if name in self.arrays), None)

    def prefix_of(self, run):
        """The prefix of a run's picture."""
        return self.prefixes.slice_rows(run.picture, run.picture + 1)

    def row(self, run):
        """The row of a run, with its prompt."""
        config = self.engine.config.tokenizer
        prompt = prompt_ids(run.task, config.templates, self.engine.tokenizer)
        return new_row(run.task, prompt, run.sampling, run.max_tokens)

    def decode(self, runs, model=None, num_slots=None, **options):
        """Decode these runs in ``num_slots`` slots; None: as many as there are runs. Return their rows."""
        rows = [self.row(run) for run in runs]
        decode_rows(model or self.engine.model, rows, [self.prefix_of(run) for run in runs], num_slots, **options)
        return rows


def decode_rows(model, rows, prefixes, num_slots=None, num_prefill_rows=None, record=None, lags=False):
    """Decode every row to its end after its prefix; return the number of active rows of each step."""
    num_slots, active = num_slots or len(rows), []
    slots = Slots(
        model,
        num_slots,
        num_prefill_rows or num_slots,
        max(p.keys.shape[3] + r.num_positions for r, p in zip(rows, prefixes, strict=True)),
        record,
        lags,
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
    sampling = sampling or Sampling(temperature=0)
    return Row(
        prompt=prompt,
        max_outputs=task.max_objects if isinstance(task, Detect | Point) else max_tokens,
        sampling=sampling,
        random=random.Random(seed),
        next_output=initial_output(task),
        has_size=isinstance(task, Detect),
        max_thoughts=sampling.reasoning_budget(task),
    )


def run_prompts_of(model, rows, prefixes):
    """The hidden states at the last tokens of the prompts of rows, run together."""
    length = prefixes[0].keys.shape[3]
    cache = KVCache.empty(
        model.config.text, len(rows), length + max(row.num_positions for row in rows), like=model.text.wte
    )
    for index, prefix in enumerate(prefixes):
        cache.copy_from(prefix, [index], length)
    return run_prompts(model, [row.prompt for row in rows], [length] * len(rows), cache)


def logits_of(golden, runs):
    """The logits after the prompts of runs, run together."""
    rows, prefixes = [golden.row(run) for run in runs], [golden.prefix_of(run) for run in runs]
    return golden.engine.model.text.logits(run_prompts_of(golden.engine.model, rows, prefixes))


def assert_row_equals(row, run):
    """Assert that a decoded row has the ids, objects and end of a run."""
    assert row.thought_ids == run.thoughts.get("ids", []), run
    assert row.token_ids == run.wanted.get("ids", []), run
    assert len(row.objects) == len(run.places), run
    assert np.allclose(row.objects, run.places, atol=1e-6) or not run.places, run
    assert row.finish_reason == run.finish_reason, run


def biased_runs(golden):
    """The runs of the reference with a bias on the head, each with its bias, which decides how an answer ends."""
    limits = golden.expected["settings"]
    for wanted in golden.expected["bias_runs"]:
        bias = {int(token): delta for token, delta in wanted["lm_head_bias_delta"].items()}
        if wanted["call"] == "query_reasoning":
            task = Query(wanted["question"], reasoning=True)
            wanted = {**wanted, **reasoning_of(wanted)}
        elif wanted["call"] == "caption":
            task = Caption(wanted["length"])
        else:
            task = {"detect": Detect, "point": Point}[wanted["call"]](wanted["object"], limits["max_objects"])
        name = f"img{wanted['image']}.{task} {bias}"
        stops = {"ended_by": "eos" if bias.get(0, 0) > 0 else "max_tokens", **wanted}
        yield bias, Run(name, wanted["image"], task, stops, max_tokens=limits["max_tokens"])
