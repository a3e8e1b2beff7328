"""The parts of gpu.sh. Each measures one thing, and writes its figures as one JSON file.

``python benchmarks/engine/gpu.py PART --out FILE --weights FOLDER``. A part writes what it has after each figure, so
that a time limit loses one figure only. Times are elapsed seconds on a GPU and CPU seconds on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attention import figures as attention_figures
from baselines import answer_naively
from bound import copy_microseconds, least_seconds, measure
from engine import clock_for, noise_pictures
from moondream3 import FULL, SMALL
from moondream3 import figures as moondream3_figures
from presets import PRESETS, write_checkpoint
from support.data.golden import MOONDREAM_3, Golden

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.devices import Recorder, choose_device, choose_dtype
from moondream_beam.models.moondream.engine.decoder_steps import cuda_graphs, repeat_eagerly
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Request, Sampling

SIZES = ("640x480", "378x378")


class Report(dict):
    """Figures by name, written to a file at each change."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __setitem__(self, name: str, figure: object) -> None:
        super().__setitem__(name, figure)
        self.path.write_text(json.dumps(self, indent=1))
        print(f"{name}: {figure}")


def versions(args: argparse.Namespace, report: Report) -> None:
    """Report PyTorch, CUDA, the device, its memory and its measured rates."""
    device = choose_device(args.device)
    report["torch"], report["cuda"] = torch.__version__, torch.version.cuda
    report["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    report["dtype"] = str(choose_dtype(args.dtype, device))
    rates = measure(device, choose_dtype(args.dtype, device))
    report["TFLOP/s of a matrix product"], report["GB/s of a sum"] = rates.flops / 1e12, rates.bytes / 1e9


def goldens(args: argparse.Namespace, report: Report) -> None:
    """Report how many rows have the ids of the reference: by way of running steps, float32 and the device's dtype."""
    device = choose_device(args.device)
    record = recorder_of(device)
    for name in args.goldens:
        for dtype in dict.fromkeys([torch.float32, choose_dtype(args.dtype, device)]):
            golden = Golden(name, device, dtype)
            for way, recorder, lags in (
                ("eager", None, False),
                ("recorded", record, False),
                ("recorded, read late", record, True),
            ):
                rows = golden.decode(golden.runs, num_slots=16, record=recorder, lags=lags)
                equal = sum(
                    row.token_ids == run.wanted.get("ids", []) for row, run in zip(rows, golden.runs, strict=True)
                )
                report[f"{name}, {dtype}, {way}"] = f"{equal} of {len(rows)} rows"


def recorder_of(device: torch.device) -> Recorder:
    """Return CUDA graphs on a GPU, and their eager twin on a CPU."""
    return cuda_graphs(device) if device.type == "cuda" else repeat_eagerly


def checkpoint(args: argparse.Namespace, report: Report) -> None:
    """Write random weights of the preset, and report the seconds that it takes to load them."""
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    args.weights.mkdir(exist_ok=True)
    write_checkpoint(args.preset, args.weights, dtype)
    started = time.perf_counter()
    engine_of(args)
    report["seconds to load"] = time.perf_counter() - started
    if device.type == "cuda":
        report["GB of weights"] = torch.cuda.memory_allocated(device) / 1e9


def engine_of(args: argparse.Namespace, slots: int | None = None, graphs: bool = True) -> Engine:
    """Return an engine with the weights of the part ``checkpoint``."""
    device = choose_device(args.device)
    return Engine(Checkpoint.at(args.weights), device, choose_dtype(args.dtype, device), slots, graphs=graphs)


def seconds_of(engine: Engine, requests: list[Request]) -> float:
    """Return the seconds of all answers."""
    clock = clock_for(engine.device)
    started = clock()
    outcomes = list(engine.answer(requests))
    assert len(outcomes) == len(requests)
    return clock() - started


def captions(args: argparse.Namespace, size: str, tokens: int, pictures: int | None = None) -> list[Request]:
    """Return caption requests of different pictures, each of exactly ``tokens`` tokens."""
    chosen = noise_pictures(pictures or args.pictures, size)
    return [
        Request(str(n), picture, Caption(), Sampling(temperature=0, max_tokens=tokens))
        for n, picture in enumerate(chosen)
    ]


def answers(args: argparse.Namespace, report: Report) -> None:
    """Report pictures a second by size, length of the answers and graphs, and the share of the bound."""
    device = choose_device(args.device)
    rates = measure(device, choose_dtype(args.dtype, device))
    for graphs in (True, False):
        engine = engine_of(args, graphs=graphs)
        for size in SIZES:
            seconds_of(engine, captions(args, size, 3, min(8, args.pictures)))
            for tokens in args.tokens:
                requests = captions(args, size, tokens)
                took = seconds_of(engine, requests)
                crops = len(prepare_crops(requests[0].picture, engine.config.vision).pixels_NHWC)
                phases = least_seconds(
                    engine.config, rates, crops, len(requests), 5, tokens * len(requests), 64, engine.dtype.itemsize
                )
                report[f"{size}, {tokens} tokens, {'graphs' if graphs else 'no graphs'}"] = {
                    "pictures/s": len(requests) / took,
                    "share of the bound": sum(phases.values()) / took,
                    "bound, seconds": phases,
                }
        del engine
    if device.type == "cuda":
        report["peak GB"] = torch.cuda.max_memory_allocated(device) / 1e9


def attention(args: argparse.Namespace, report: Report) -> None:
    """Report the microseconds of one layer's attention in a step by way of computing it, and which way is chosen.

    Each way that the engine may choose decodes the first golden, too.
    """
    device = choose_device(args.device)
    golden = Golden(args.goldens[0], device, choose_dtype(args.dtype, device))
    for name, figure in attention_figures(engine_of(args, 1).model.text, golden, args.slots, recorder_of(device)):
        report[name] = figure


def slots(args: argparse.Namespace, report: Report) -> None:
    """Report pictures a second by the number of slots, and whether the texts are those of one slot number."""
    texts = {}
    for number in args.slots:
        engine = engine_of(args, number)
        requests = captions(args, SIZES[0], args.tokens[-1])
        report[f"{number} slots"] = {"pictures/s": len(requests) / seconds_of(engine, requests)}
        few = requests[:16]
        texts[number] = [o.result.text for o in sorted(engine.answer(few), key=lambda outcome: int(outcome.id))]
        del engine
    report["same texts with every number of slots"] = len({tuple(text) for text in texts.values()}) == 1


def tasks(args: argparse.Namespace, report: Report) -> None:
    """Report the time of four tasks a picture relative to one, and the time of one copy of an image prefix."""
    engine, brief = engine_of(args), Sampling(temperature=0, max_tokens=16)
    pictures = noise_pictures(args.pictures, SIZES[0])
    four = (Caption("short"), Query("What is there?"), Detect("dog", 5), Point("dog", 8))
    one = [
        Request(str(n), picture, four[0], Sampling(temperature=0, max_tokens=64)) for n, picture in enumerate(pictures)
    ]
    more = [
        Request(
            f"{n}-{task.name}", picture, task, brief if task is not four[0] else Sampling(temperature=0, max_tokens=64)
        )
        for n, picture in enumerate(pictures)
        for task in four
    ]
    seconds_of(engine, one[:8])
    alone = seconds_of(engine, one)
    report["four tasks relative to one"] = seconds_of(engine, more) / alone
    took = report["copy of a prefix, microseconds"] = copy_microseconds(engine)
    report["copies, share of four tasks"] = len(more) * took / 1e6 / (alone * report["four tasks relative to one"])


def naive(args: argparse.Namespace, report: Report) -> None:
    """Report pictures a second of the naive loop: one picture at a time over the whole context."""
    engine, requests = engine_of(args, 1, graphs=False), captions(args, SIZES[0], args.tokens[-1], 4)
    clock = clock_for(engine.device)
    started = clock()
    answer_naively(engine, requests)
    report["naive loop, pictures/s"] = len(requests) / (clock() - started)


def moondream3(args: argparse.Namespace, report: Report) -> None:
    """Report pictures a second of Moondream 3 with random weights, and its prefill by both ways to run experts."""
    device, config = choose_device(args.device), FULL if args.preset == "moondream2" else SMALL
    requests = captions(args, SIZES[0], args.tokens[len(args.tokens) // 2], min(64, args.pictures))
    for name, figure in moondream3_figures(config, device, choose_dtype(args.dtype, device), requests):
        report[name] = figure


def profile(args: argparse.Namespace, report: Report) -> None:
    """Report the kernels that take the most time, of vision and prefill and of steps."""
    engine = engine_of(args)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if engine.device.type == "cuda" else []
    for name, tokens in (("vision and prefill", 1), ("with 30 steps", 30)):
        requests = captions(args, SIZES[0], tokens, min(16, args.pictures))
        seconds_of(engine, requests)
        with torch.profiler.profile(activities=activities) as profiled:
            seconds_of(engine, requests)
        key = "self_device_time_total" if engine.device.type == "cuda" else "self_cpu_time_total"
        events = sorted(profiled.key_averages(), key=lambda event: -getattr(event, key))[:12]
        report[name] = {event.key: round(getattr(event, key) / 1000, 2) for event in events}


def pipeline(args: argparse.Namespace, report: Report) -> None:
    """Report the time of the whole command over JPEG files relative to the bare engine."""
    if not importlib.util.find_spec("apache_beam"):
        report["left out"] = "apache_beam is not installed here"
        return
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        for number, picture in enumerate(noise_pictures(args.pictures, SIZES[0])):
            picture.save(photos / f"{number}.jpg", quality=90)
        command = [sys.executable, "-m", "moondream_beam.pipelines.cli", "annotate", str(photos), "--output"]
        command += [str(Path(folder, "out")), "--model", str(args.weights), "--device", args.device]
        command += ["--caption", "normal", "--max-tokens", "30", "--temperature", "0"]
        started = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        report["command, seconds"] = time.perf_counter() - started
        report["command, status"] = ended.returncode
        report["command, last lines"] = (ended.stdout + ended.stderr).splitlines()[-8:]
    started = time.perf_counter()
    engine = engine_of(args)
    report["loading, seconds"] = time.perf_counter() - started
    started = time.perf_counter()
    list(engine.answer(captions(args, SIZES[0], 30)))
    report["bare engine, seconds"] = time.perf_counter() - started


def merge(args: argparse.Namespace, report: Report) -> None:
    """Merge the files of all parts into results.json and results.md."""
    parts = {path.stem.removeprefix("part-"): json.loads(path.read_text()) for path in args.out.glob("part-*.json")}
    (args.out / "results.json").write_text(json.dumps(parts, indent=1))
    lines = []
    for part in (name for name in PARTS if name in parts):
        lines += [f"## {part}", "", "| what | figure |", "|---|---|"]
        lines += [f"| {name} | {_cell(figure)} |" for name, figure in parts[part].items()] + [""]
        (args.out / f"part-{part}.json").unlink()
    (args.out / "results.md").write_text("\n".join(lines))
    print("\n".join(lines))


def _cell(figure: object) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{name} {_cell(value)}" for name, value in figure.items())
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


PARTS: dict[str, Callable[[argparse.Namespace, Report], None]] = {
    part.__name__: part
    for part in (
        *(versions, goldens, checkpoint, answers, attention, slots, tasks, naive, moondream3, profile, pipeline, merge),
    )
}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="moondream2")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--tokens", type=int, nargs="+", default=[3, 30, 96], help="lengths of the answers")
    parser.add_argument("--goldens", nargs="+", default=["public", *MOONDREAM_3])
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    args = parser.parse_args()
    PARTS[args.part](args, Report(args.out))


if __name__ == "__main__":
    main()
