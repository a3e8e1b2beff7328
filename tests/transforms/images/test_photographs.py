"""Real photographs in many formats and modes: each becomes one row a task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars
import pytest
from support.data.echo import Echo
from support.data.photographs import take_photographs
from support.running.beam_runs import collect

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.tasks import Annotator, Caption, Detect, Point, Query, Sampling
from moondream_beam.transforms.annotation.annotate import Annotate
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.inputs.images import ReadImages

TASKS = (Caption(), Query("What is in the picture?"), Detect("person"), Point("person"))
GOLDEN = Path(__file__).parents[2] / "golden" / "public"
TINY = Path(__file__).parents[3] / "models" / "tiny" / "model.safetensors"
SHORT = Sampling(max_tokens=6, temperature=0)


def annotated(photos: Path, out: Path, annotator: Annotator) -> polars.DataFrame:
    """Run the job, check that no image failed, and return the rows."""
    job = AnnotateToParquet(TASKS, annotator, str(out), sampling=SHORT)
    (record,) = collect(lambda pipeline: pipeline | ReadImages(str(photos)) | job)
    assert record["balanced"]
    assert polars.read_parquet(out / "errors" / "*.parquet")["message"].to_list() == []
    return polars.read_parquet(out / "data" / "*.parquet")


def test_each_photograph_is_one_row_a_task_with_its_upright_size(tmp_path: Path) -> None:
    sizes = take_photographs(tmp_path / "photos")
    rows = annotated(tmp_path / "photos", tmp_path / "out", Echo(batch_size=7)).to_dicts()
    assert Counter((row["filename"], row["task"]) for row in rows) == Counter(
        (name, task.name) for name in sizes for task in TASKS
    )
    assert {row["filename"]: (row["width"], row["height"]) for row in rows} == sizes
    # One photograph in many modes: all without transparent pixels have the same brightness.
    said = {row["filename"]: row["caption"].split(", (")[1] for row in rows if row["task"] == "caption"}
    brightness = {name: sum(map(int, colour.strip(")").split(", "))) / 3 for name, colour in said.items()}
    for name in (
        "rgb.png",
        "rgb.webp",
        "rgb.avif",
        "rgb.heic",
        "gray.jpg",
        "gray.png",
        "one bit.png",
        "cmyk.jpg",
        "palette.png",
        "palette.gif",
    ):
        assert brightness[name] == pytest.approx(brightness["hopper.jpg"], abs=6), name
    assert brightness["sixteen bit.png"] == pytest.approx(brightness["gray.png"], abs=1)
    assert len({round(brightness[f"orientation {number}.jpg"]) for number in range(1, 9)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "golden"])
def test_the_real_engine_answers_the_same_in_the_job_and_in_a_custom_pipeline(tmp_path: Path, model: str) -> None:
    if model == "tiny" and not TINY.exists():
        pytest.skip("the embedded checkpoint is not there")
    photos = tmp_path / "photos"
    names = {"hopper.jpg", "cmyk.jpg", "alpha.webp", "orientation 6.jpg", "smallest.png", "sixteen bit.png"}
    for name in set(take_photographs(photos)) - names:
        (photos / name).unlink()
    engine = Moondream(str(GOLDEN) if model == "golden" else model, device="cpu", threads=1)
    rows = annotated(photos, tmp_path / "out", engine)
    assert len(rows) == len(names) * len(TASKS)
    assert set(rows["backend"]) == {"local/cpu/float32"}

    annotations, failures = collect(
        lambda pipeline: pipeline | ReadImages(str(photos)) | Annotate(TASKS, engine, sampling=SHORT)
    )
    assert failures == []
    assert {row.id: (row.filename, row.caption) for row in annotations} == {
        row["id"]: (row["filename"], row["caption"]) for row in rows.to_dicts()
    }
    objects = {row["id"]: row["objects"] for row in rows.to_dicts()}
    for row in annotations:
        written = objects[row.id]
        assert (written is None) == (row.objects is None)
        for box, wanted in zip(written or (), row.objects or (), strict=True):
            assert tuple(box.values()) == pytest.approx(wanted, abs=1e-4)
