"""Pipelines in Beam YAML, run by Beam's own program in this process."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from apache_beam.transforms.environments import DockerEnvironment
from apache_beam.yaml import main, yaml_provider, yaml_transform
from PIL import Image
from support.checkpoints.families import save_checkpoint
from support.data.profiles import SRGB_COLUMNS, rgb_profile
from support.servers.chat.server import chat_server

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.pipelines.beam_yaml import PROVIDERS

EXAMPLE = Path(__file__).parents[1] / "support" / "data" / "annotate.yaml"
IMAGES = {"type": "ReadImages", "config": {"path": "pictures"}}
GIVEN = {"model": "tiny", "tasks": [{"caption": "short"}], "error_handling": {"output": "errors"}}


@pytest.fixture(autouse=True)
def here(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to the folder that contains ``pictures``, with four pictures and a broken one."""
    monkeypatch.chdir(pictures.parent)
    return pictures.parent


def step(kind: str, source: str, **config: Any) -> dict[str, Any]:
    """Return the specification of a transform that reads the output ``source``."""
    return {"type": kind, "input": source, "config": config}


def written(source: str, path: str) -> dict[str, Any]:
    """Return the specification of a transform that writes the output ``source`` as JSON."""
    return {**step("WriteToJson", source, path=path), "name": f"Write {path}"}


def spec(*transforms: dict[str, Any]) -> str:
    """Return the YAML of a pipeline of these transforms, with our providers."""
    return yaml.safe_dump({"providers": [{"include": str(PROVIDERS)}], "pipeline": {"transforms": list(transforms)}})


def run(*transforms: dict[str, Any]) -> None:
    main.run(["--yaml_pipeline", spec(*transforms), "--runner=FnApiRunner"])


def annotate(source: dict[str, Any], **config: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Annotate the output of one transform, and return the rows and the errors."""
    annotating = step("Annotate", source["type"], **{**GIVEN, **config})
    run(source, annotating, written("Annotate", "out/rows"), written("Annotate.errors", "out/errors"))
    return lines("out/rows-*"), lines("out/errors-*")


def lines(pattern: str) -> list[dict[str, Any]]:
    """Return the rows that a pipeline wrote as JSON."""
    return [json.loads(line) for path in Path().glob(pattern) for line in path.read_text().splitlines()]


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Return the rows in ``data`` or ``errors`` of the output."""
    return [row for path in Path("out", kind).glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def ids() -> list[str]:
    """Return the ids of all rows of the output, after a check that no id occurs twice."""
    found = [row["id"] for row in [*rows_of("data"), *rows_of("errors")]]
    assert len(found) == len(set(found))
    return found


def test_the_example_writes_a_row_for_each_task_on_each_picture_and_errors_apart():
    variables = json.dumps({"providers": str(PROVIDERS)})
    main.run([f"--yaml_pipeline_file={EXAMPLE}", f"--jinja_variables={variables}", "--runner=FnApiRunner"])
    (path,) = Path("out").glob("rows-*")
    rows = pq.read_table(path).to_pylist()
    assert Counter(row["task"] for row in rows if row["task"] != "detect") == {"caption": 4, "query": 4}
    boxes = [box for row in rows if row["task"] == "detect" for box in row["objects"]]
    assert boxes and all(0 <= box["x_min"] < box["x_max"] <= 1 for box in boxes)
    assert sum(row["circles"] for row in lines("out/plain-*")) == len(boxes)
    errors = lines("out/errors-*")
    assert [(row["filename"], row["stage"]) for row in errors] == [("broken.jpg", "decode")] * 3
    assert len({row["id"] for row in [*rows, *errors]}) == len(rows) + len(errors)


def test_pictures_may_be_in_a_column_of_parquet():
    cells = [{"bytes": Path("pictures", name).read_bytes(), "path": name} for name in ("a.png", "b.jpg", "broken.jpg")]
    pq.write_table(pa.table({"image": cells, "label": ["x", "y", "z"]}), "list.parquet")
    config = {"path": "list.parquet", "image_column": "image", "columns": ["label"]}
    rows, errors = annotate({"type": "ReadManifest", "config": config}, tasks=["Is it {label}?"], keep_fields=["label"])
    assert {(row["filename"], row["prompt"], row["label"]) for row in rows} == {
        ("a.png", "Is it x?", "x"),
        ("b.jpg", "Is it y?", "y"),
    }
    assert [(row["uri"], row["stage"]) for row in errors] == [
        (f"{os.getcwd()}/list.parquet#image/3/broken.jpg", "decode")
    ]


def test_a_vision_server_answers_in_place_of_the_engine():
    with chat_server("ollama") as server:
        rows, errors = annotate(IMAGES, model="org/model", openai={"base_url": server.url, "max_pixels": 9000})
    assert len(rows) == 4 and {row["backend"] for row in rows} == {"openai/ollama/org/model"}
    assert {row["revision"] for row in rows} == {"0123abcd; max_pixels 9000"}
    assert [row["stage"] for row in errors] == ["decode"]


def test_a_model_of_transformers_answers_in_place_of_the_engine(tmp_path):
    (tmp_path / "model").mkdir()
    folder = str(save_checkpoint("florence2", tmp_path / "model"))
    options = {"device": "cpu", "sampling": {"max_tokens": 4}, "transformers": {"max_pixels": 9000}}
    rows, errors = annotate(IMAGES, model=folder, **options)
    assert len(rows) == 4 and {row["backend"] for row in rows} == {"transformers/cpu/float32"}
    assert all(row["revision"].endswith("; max_pixels 9000") for row in rows)
    assert [row["stage"] for row in errors] == ["decode"]


def test_colours_are_converted_on_request():
    for path in Path("pictures").rglob("*.*"):
        path.unlink()
    red, green, blue = SRGB_COLUMNS
    image = draw(TEST_SEEDS[0]).image
    image.save("pictures/a.png", icc_profile=rgb_profile((blue, green, red)))
    Image.merge("RGB", image.split()[::-1]).save("pictures/b.png")
    asked = {"tasks": [{"caption": "short"}], "sampling": {"temperature": 0}}
    ignored, _ = annotate(IMAGES, **asked)
    converted, _ = annotate(IMAGES, **asked, colour_profiles="srgb")
    assert len({row["caption"] for row in ignored}) == 2
    assert len({row["caption"] for row in converted}) == 1
    assert not {row["id"] for row in ignored} & {row["id"] for row in converted}
    job = step("AnnotateToParquet", "ReadImages", output="out", model="tiny", colour_profiles="srgb", **asked)
    run(IMAGES, job)
    assert sorted(ids()) == sorted(row["id"] for row in converted)


def test_columns_and_fields_are_renamed_where_their_names_are_taken():
    Path("list.csv").write_text("uri,width,id,alt text\npictures/a.png,1000,x7,a circle\n")
    config = {"path": "list.csv", "uri_column": "uri", "columns": ["width", "uri", "id=sku", "alt text=alt"]}
    keep = ["width", "manifest_uri", "sku=original_id", "alt"]
    ((row,), errors) = annotate({"type": "ReadManifest", "config": config}, keep_fields=keep)
    assert errors == [] and row["width"] != 1000 and len(row["id"]) == 64
    names = ("manifest_width", "manifest_uri", "original_id", "alt")
    assert [row[name] for name in names] == ["1000", "pictures/a.png", "x7", "a circle"]


@pytest.mark.slow
def test_the_rows_are_those_of_the_command(command):
    rows, errors = annotate(IMAGES, tasks=[{"caption": "short"}, "Why?", {"point": "square"}])
    words = ("--output", "out", "--model", "tiny", "--caption", "short", "--query", "Why?", "--point", "square")
    assert command("annotate", "pictures", *words, "--max-failure-rate", 1)[0] == 0
    assert sorted(row["id"] for row in [*rows, *errors]) == sorted(ids()) and len(ids()) == 15
    answers = {row["id"]: (row["caption"], row["sha256"], row["width"], row["revision"]) for row in rows_of("data")}
    assert {row["id"]: (row["caption"], row["sha256"], row["width"], row["revision"]) for row in rows} == answers


def test_a_second_run_adds_only_what_is_missing_and_outputs_its_failures():
    for name in ("first", "second"):
        job = step("AnnotateToParquet", "ReadImages", output="out", **GIVEN)
        records, errors = f"outputs/{name}-record", f"outputs/{name}-errors"
        run(IMAGES, job, written("AnnotateToParquet", records), written("AnnotateToParquet.errors", errors))
        assert len(ids()) == 5
    (first,), (second,) = lines("outputs/first-record-*"), lines("outputs/second-record-*")
    assert (first["pending"], first["annotations"], first["failures"], first["done"]) == (5, 4, 1, 0)
    assert (second["pending"], second["annotations"], second["failures"], second["done"]) == (0, 0, 0, 5)
    assert first["balanced"] and second["balanced"]
    assert [row["filename"] for row in lines("outputs/first-errors-*")] == ["broken.jpg"]
    assert lines("outputs/second-errors-*") == []
    assert {path.stem for path in Path("out/runs").glob("*.json")} == {first["run"], second["run"]}


@pytest.mark.slow
def test_the_whole_job_resumes_a_run_of_the_command(command):
    words = ("--output", "out", "--model", "tiny", "--caption", "short")
    assert command("annotate", "pictures/a.png", *words)[0] == 0
    run(IMAGES, step("AnnotateToParquet", "ReadImages", output="out", model="tiny", tasks=GIVEN["tasks"]))
    assert len(ids()) == 5
    assert len(list(Path("out/runs").glob("*.json"))) == 2


def test_prompts_name_fields_of_a_manifest_and_fields_are_kept():
    listed = ["url,product,split", "pictures/a.png,circle,train", "pictures/b.jpg,square,test", ",square,test"]
    Path("list.csv").write_text("\n".join([*listed, "pictures/c.webp,,train"]))
    source = {"type": "ReadManifest", "config": {"path": "list.csv", "columns": ["product", "split"]}}
    rows, errors = annotate(source, tasks=[{"detect": "{product}"}, "Is there a {product}?"], keep_fields=["split"])
    assert sorted((row["filename"], row["prompt"], row["split"]) for row in rows) == [
        ("pictures/a.png", "Is there a circle?", "train"),
        ("pictures/a.png", "circle", "train"),
        ("pictures/b.jpg", "Is there a square?", "test"),
        ("pictures/b.jpg", "square", "test"),
    ]
    assert {(row["prompt"], row["split"]) for row in errors} == {
        ("square", "test"),
        ("Is there a square?", "test"),
        ("", "train"),
        ("Is there a ?", "train"),
    }
    assert Counter((row["stage"], row["message"]) for row in errors) == {
        ("list", "list.csv#4: column url is empty: fill it in"): 2,
        ("list", "column product is empty: fill it in"): 2,
    }


def test_each_row_of_a_manifest_is_a_row_of_the_result_and_names_are_found_in_a_root(here):
    (here / "ids.csv").write_text("id,text\na,x\na,y\na,y\nno-such,z\n")
    reading = {"type": "ReadManifest", "config": {"path": "ids.csv", "uri_column": "id", "root": "pictures"}}
    reading["config"]["columns"] = ["text"]
    config = {"model": "tiny", "tasks": [{"caption": "short"}], "output": "out", "keep_fields": ["text"]}
    run(reading, step("AnnotateToParquet", "ReadManifest", **config), written("AnnotateToParquet", "told"))
    (told,) = lines("told-*")
    assert (told["inputs"], told["requests"], told["pending"], told["failures"]) == (4, 2, 4, 1) and told["balanced"]
    found = [row for path in (here / "out" / "data").glob("*") for row in pq.read_table(path).to_pylist()]
    assert sorted((row["filename"], row["text"]) for row in found) == [("a.png", "x"), ("a.png", "y"), ("a.png", "y")]


def test_rows_of_another_transform_keep_their_fields_and_types():
    elements = [{"uri": "pictures/a.png", "label": 7, "sure": True}, {"uri": "", "label": 8, "sure": False}]
    job = step("AnnotateToParquet", "Create", output="out", model="tiny", keep_fields=["label", "sure"])
    run({"type": "Create", "config": {"elements": elements}}, job)
    (row,), (error,) = rows_of("data"), rows_of("errors")
    assert (row["filename"], row["label"], row["sure"], row["prompt"]) == ("a.png", 7, True, "Describe this image.")
    assert row["uri"] == str(Path("pictures/a.png").absolute())
    assert (error["stage"], error["message"]) == ("list", "field uri is empty: fill it in")


@pytest.mark.slow
def test_members_of_an_archive_are_annotated_too():
    with tarfile.open("set.tar", "w") as archive:
        archive.add("pictures/a.png", "inside.png")
    (row,), errors = annotate({"type": "ReadImages", "config": {"path": ["set.tar"]}})
    assert row["uri"] == f"{Path('set.tar').absolute()}#inside.png" and errors == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_a_name_that_is_no_utf_8_is_a_row_among_the_errors():
    os.rename(b"pictures/a.png", b"pictures/\xff.png")
    rows, errors = annotate(IMAGES)
    assert sorted(row["filename"] for row in errors) == ["\\udcff.png", "broken.jpg"]
    assert len(rows) == 3


@pytest.mark.parametrize(
    "config, message",
    [
        ({"tasks": [{"caption": "tiny"}]}, "line [0-9]+: caption length 'tiny': choose short, normal or long"),
        ({"tasks": ["Is {product} there?"]}, "the rows have no field 'product'; they have uri, filename, problem"),
        ({"keep_fields": ["split"]}, "the rows have no field 'split'"),
        ({"keep_fields": ["filename=KEY"]}, "column filename can't be kept as KEY: the rows have a column key"),
        ({"task": "caption"}, "Annotate has no argument task; did you mean tasks"),
        ({"device": "tpu"}, "device tpu"),
        ({"model": "./nowhere"}, "nowhere"),
        ({"batch_size": 0}, "batch size 0: give 1 or more"),
        ({"openai": {"url": "http://x"}}, "openai: give a mapping with base_url"),
        ({"openai": {"base_url": "x"}}, "base URL x: give an http"),
        ({"openai": {"base_url": "http://x", "max_pixels": "9"}}, "give numbers without quotes"),
        ({"transformers": {}, "model": None}, "transformers: give model as well"),
        ({"transformers": {"pixels": 9}}, "transformers: give a mapping, and if wanted max_pixels"),
        ({"transformers": {}, "model": "./nowhere"}, "no such folder"),
        ({"transformers": {}, "openai": {"base_url": "http://x"}}, "openai and transformers: give one of them"),
        ({"transformers": {}, "tokenizer": "x.json"}, "tokenizer x.json: only Moondream's own engine"),
        ({"colour_profiles": "p3"}, "colour profiles 'p3': give ignore or srgb"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(config, message):
    with pytest.raises(ValueError, match=message):
        annotate(IMAGES, **config)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"path": "none.csv"}, "manifest none.csv: no such file"),
        ({"path": "list.csv"}, "has no column 'url'; it has 'uri', 'taken'"),
        ({"path": "list.csv", "uri_column": "uri", "columns": ["split"]}, "has no column 'split'"),
        ({"path": "list.csv", "uri_column": "uri", "columns": ["taken=Uri"]}, "taken can't be kept as Uri"),
        ({"path": []}, "path: no manifest"),
    ],
)
def test_a_missing_manifest_or_column_is_refused(config, message):
    Path("list.csv").write_text("uri,taken\n")
    with pytest.raises(ValueError, match=message):
        annotate({"type": "ReadManifest", "config": config})


@pytest.mark.parametrize("path", ["nowhere", ["pictures", "nowhere/*.jpg"]])
def test_a_path_without_pictures_is_refused(path):
    with pytest.raises(
        ValueError, match="line [0-9]+: path nowhere.*: (there is no folder|no such file).*: check the path"
    ):
        annotate({"type": "ReadImages", "config": {"path": path}})


def test_missing_error_handling_is_refused():
    with pytest.raises(ValueError, match="add error_handling: {output: NAME}"):
        run(IMAGES, step("Annotate", "ReadImages", model="tiny"))


@pytest.mark.parametrize(
    "element, message",
    [({"url": "a.png"}, "the rows have no field 'uri'; they have url"), ({"uri": 5}, "field uri must be text")],
)
def test_rows_without_a_uri_are_refused(element, message):
    with pytest.raises(ValueError, match=message):
        annotate({"type": "Create", "config": {"elements": [element]}})


@pytest.mark.parametrize(
    "kind, options, step_with_model",
    [
        ("Annotate", {}, "Annotate/Ask/Annotate pictures/ParDo(_AnnotatePictures)"),
        ("AnnotateToParquet", {"output": "out"}, "AnnotateToParquet/Job/Annotate shards"),
    ],
)
def test_resource_hints_reach_the_step_with_the_model(kind, options, step_with_model):
    hints = {
        "accelerator": "type:nvidia-l4;count:1;install-nvidia-driver",
        "min_ram": "16GB",
        "max_active_bundles_per_worker": "1",
    }
    annotating = {**step(kind, "ReadImages", **GIVEN, **options), "resource_hints": hints}
    pipeline = beam.Pipeline(runner="FnApiRunner")
    yaml_transform.expand_pipeline(pipeline, spec(IMAGES, annotating, step("LogForTesting", f"{kind}.errors")))
    proto = pipeline.to_runner_api(default_environment=DockerEnvironment.from_container_image("workers"))
    hinted = {
        one.unique_name: set(proto.components.environments[one.environment_id].resource_hints.values())
        for one in proto.components.transforms.values()
        if one.environment_id and proto.components.environments[one.environment_id].resource_hints
    }
    assert step_with_model in hinted
    assert all(name.startswith(step_with_model.split("/Ask")[0]) for name in hinted)
    assert all(found == {hints["accelerator"].encode(), b"16000000000", b"1"} for found in hinted.values())


def test_the_providers_describe_their_arguments():
    (provider,) = yaml_provider.load_providers(str(PROVIDERS))
    assert set(provider.provided_transforms()) == {"ReadImages", "ReadManifest", "Annotate", "AnnotateToParquet"}
    for name in provider.provided_transforms():
        assert provider.description(name)
        fields = {field.name: field.description for field in provider.config_schema(name).fields}
        assert fields and all(fields.values())
