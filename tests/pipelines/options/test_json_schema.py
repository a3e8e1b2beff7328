"""``--json-schema`` from the command to the export, with a vision server and with the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.hosted.pictures import numbered
from support.servers.chat.server import chat_server

from moondream_beam.models.tasks import Query
from moondream_beam.pipelines.building.yaml import parse_tasks

SCHEMA = {
    "type": "object",
    "properties": {
        "number": {"type": "integer"},
        "light": {"type": "object", "properties": {"source": {"type": "string"}}},
        "tags": {"type": "array"},
    },
    "required": ["number"],
}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (folder := tmp_path / "photos").mkdir()
    for number in range(1, 4):
        numbered(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def say(text, number, body):
    if number == 3:
        return '{"number": "three"}'
    return json.dumps({"number": number, "light": {"source": "sun"}, "tags": ["a", "b"]})


def test_answers_are_text_in_rows_and_columns_in_an_export(photos, schema, tmp_path, command):
    out, lines = tmp_path / "out", tmp_path / "rows.jsonl"
    with chat_server() as server:
        server.dialect.say = say
        words = ("--backend", "openai", "--base-url", server.url, "--query", "Which number?", "--output", out)
        status, stdout, _ = command("annotate", photos, *words, "--json-schema", schema)
    assert status == 1 and "2 in data/ + 1 in errors/: balances" in stdout
    (path,) = (out / "errors").glob("*.parquet")
    (failed,) = pq.read_table(path).to_pylist()
    assert (failed["filename"], failed["error"], failed["attempts"]) == ("3.png", "InvalidAnswer", 2)
    assert failed["prompt"] == "Which number?"
    (record,) = (out / "runs").glob("*.json")
    assert json.loads(record.read_text())["tasks"][0]["schema"] == SCHEMA

    assert command("export", out, lines, "--to", "jsonl")[0] == 0
    first, second = map(json.loads, lines.read_text().splitlines())
    assert json.loads(first["query_which_number"])["number"] == 1
    fields = {name.removeprefix("query_which_number_"): value for name, value in second.items() if "number_" in name}
    assert fields == {"number": 2, "light_source": "sun", "tags": ["a", "b"]}


def test_the_engine_is_asked_in_words_and_checked(photos, schema, tmp_path, command):
    words = ("--model", "tiny", "--query", "What?", "--json-schema", schema, "--limit", "1", "--max-tokens", "4")
    status, stdout, _ = command("annotate", photos, *words, "--output", tmp_path / "out")
    assert status == 1 and "0 in data/ + 1 in errors/: balances" in stdout


@pytest.mark.parametrize(
    "content, words, cure",
    [
        ("{", ("--query", "Why?"), "give a JSON schema"),
        ('{"type": "thing"}', ("--query", "Why?"), "is not valid"),
        ("{}", ("--caption", "short"), "--json-schema: none of the tasks is a query"),
    ],
)
def test_a_bad_schema_is_one_line_with_the_cure(photos, tmp_path, command, content, words, cure):
    path = tmp_path / "schema.json"
    path.write_text(content)
    status, _, stderr = command(
        "annotate", photos, "--model", "tiny", *words, "--json-schema", path, "--output", tmp_path / "out"
    )
    assert status == 2 and cure in stderr.splitlines()[-1] and len(stderr.splitlines()) == 1


def test_a_task_of_yaml_may_have_a_schema():
    assert parse_tasks([{"query": "Why?", "schema": SCHEMA}]) == (Query("Why?", schema=SCHEMA),)
    assert parse_tasks([{"query": "Why?", "schema": SCHEMA, "reasoning": True}]) == (Query("Why?", True, SCHEMA),)
    with pytest.raises(ValueError, match="give a JSON schema that is an object"):
        parse_tasks([{"query": "Why?", "schema": "[]"}])
