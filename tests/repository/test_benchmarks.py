"""The benchmark for a GPU runs whole on a CPU, with a small network; and ``make bench`` runs all others."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# It runs the others; one needs a server that the tests start, and two Java. Of engine/, most programs are for a GPU.
NOT_IN_BENCH = {"bench.py", "servers/object_stores.py", "servers/spark_rows.py", "servers/spark_workers.py"}
NETWORK = ("--preset", "smallest", "--device", "cpu", "--goldens", "public")
SMALL = (*NETWORK, "--pictures", "1", "--slots", "1", "2", "--tokens", "3", "6", "9")


@pytest.mark.slow
def test_the_gpu_benchmark_writes_figures_of_every_part(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "LIMIT_FACTOR": "4"}
    ended = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", *SMALL], env=environment, capture_output=True, text=True, timeout=1800
    )
    parts = json.loads((tmp_path / "results.json").read_text())
    assert set(parts) == {
        *(
            "versions",
            "goldens",
            "checkpoint",
            "answers",
            "attention",
            "slots",
            "tasks",
            "naive",
            "moondream3",
            "profile",
            "pipeline",
        )
    }, ended.stdout
    for figure in parts["goldens"].values():
        equal, total = figure.removesuffix(" rows").split(" of ")
        assert int(equal) == int(total) > 10
    assert len([name for name in parts["answers"] if "tokens" in name]) == 12
    assert all(figures["pictures/s"] > 0 for name, figures in parts["answers"].items() if "tokens" in name)
    attention = parts["attention"]
    timed = attention["as the engine measures, microseconds"]
    assert timed["sdpa"] > 0 and timed["products"] > 0 and attention["chosen"] in timed
    assert attention["same ids as sdpa"]["products"] == attention["same ids as sdpa"]["sdpa"]
    # A CPU has no such kernel, and its error costs this way only.
    assert timed["varlen"].startswith("NotImplementedError")
    assert attention["2 rows of 896 positions, microseconds"]["math"] > 0
    assert parts["tasks"]["copy of a prefix, microseconds"] > 0 and parts["tasks"]["copies, share of four tasks"] > 0
    assert parts["moondream3"]["pictures/s"] > 0
    assert parts["moondream3"]["prefill of a picture, experts by loop, ms"] > 0
    assert parts["slots"]["same texts with every number of slots"] is True
    assert parts["pipeline"]["command, status"] == 0, parts["pipeline"]
    assert all(f"## {part}" in (tmp_path / "results.md").read_text() for part in parts)


def run_bench(out: Path, *words: str) -> dict[str, Any]:
    subprocess.run([sys.executable, BENCHMARKS / "bench.py", "--out", out, *words], check=True, capture_output=True)
    return json.loads(out.read_text())


def test_bench_writes_the_tables_of_a_benchmark_with_the_commit(tmp_path: Path) -> None:
    written = run_bench(tmp_path / "bench.json", "--only", "counting")
    assert len(written["commit"].removesuffix("+")) == 40
    counting = written["benchmarks"]["counting"]
    assert counting["status"] == "ok" and counting["output"][0].startswith("200,000 rows in 200 files")
    assert counting["command"] == "python benchmarks/outputs/counting.py 200"


def test_bench_reads_tables_and_ratios_of_the_benchmarks() -> None:
    spec = importlib.util.spec_from_file_location("bench", BENCHMARKS / "bench.py")
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    start = (
        "| command | CPU s | ratio | clock s | ratio |\n|---|---|---|---|---|\n| --help | 0.15 | 0.04 | 0.5 | 0.03 |\n"
    )
    engine = "| method | images/s | speedup over the first |\n|---|---|---|\n| engine | 1.67 | 3.10 x |\n"
    found = bench.tables(f"preset small\n{start}\nthen\n{engine}")
    assert found[0] == [{"command": "--help", "CPU s": "0.15", "ratio": "0.04", "clock s": "0.5", "ratio 4": "0.03"}]
    assert bench.ratios(found) == {
        "--help: ratio": 0.04, "--help: ratio 4": 0.03, "engine: speedup over the first": 3.1
    }  # fmt: skip
    programs = {path.relative_to(BENCHMARKS).as_posix() for path in BENCHMARKS.rglob("*.py")}
    small = {program for program, *_ in bench.SMALL.values()}
    assert small <= programs
    assert {program for program in programs - small if not program.startswith("engine/")} == NOT_IN_BENCH
