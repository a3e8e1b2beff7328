"""The local runner: options, network, and the parts of Beam that it uses."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import userstate
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from moondream_beam import pipelines
from moondream_beam.pipelines.local_runner.dofn_specs import inspect_once
from moondream_beam.pipelines.local_runner.runner import local_runner


def describe_worker(_: int) -> str:
    return f"{os.getpid()} {RuntimeValueProvider.get_value('s3_region_name', str, 'default')}"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_beam_options_reach_the_process_that_does_the_work(workers, tmp_path):
    options = PipelineOptions(["--s3_region_name=mars-1"])
    with beam.Pipeline(local_runner(options, workers), options=options) as pipeline:
        output = pipeline | beam.Create(range(8)) | beam.Reshuffle() | beam.Map(describe_worker)
        _ = output | beam.io.WriteToText(str(tmp_path / "output"), shard_name_template="")
    processes, regions = zip(*(line.split() for line in (tmp_path / "output").read_text().splitlines()), strict=True)
    assert len(set(processes)) == workers
    assert (str(os.getpid()) in processes) == (workers == 1)
    # In this process, Beam's global runtime options are not changed.
    assert set(regions) == ({"mars-1"} if workers > 1 else {"default"})


def test_the_local_runner_downloads_nothing():
    # The tests block the network, so a download would fail.
    with beam.Pipeline(local_runner(PipelineOptions([]), 1)) as pipeline:
        _ = pipeline | beam.Create([1]) | beam.Map(print)


def private_names(source: str) -> Iterator[str]:
    """Yield private names that a module imports, or reads from an object other than ``self`` and ``cls``.

    The underscore of a named tuple's methods keeps them apart from its fields: they are public.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        elif (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and node.attr[1] != "_"
            and node.attr != "_replace"
        ):
            yield ast.unparse(node)


def test_no_private_part_of_beam_is_used_to_run_a_job():
    modules = sorted(Path(pipelines.__file__).parent.rglob("*.py"))
    found = {name for module in modules for name in private_names(module.read_text())}
    # argparse has no public name for the type of its groups.
    assert found <= {"os._exit", "os._Environ", "argparse._ArgumentGroup"}
    planted = "from apache_beam import _a\nself.control_conn._state\nself._pool\nsuper().__init__()"
    assert list(private_names(planted)) == ["_a", "self.control_conn._state"]


SEEN = ReadModifyWriteStateSpec("seen", VarIntCoder())
STATE = beam.DoFn.StateParam(SEEN)


class CountSoFar(beam.DoFn):
    """Number the values of each key."""

    def process(self, pair, seen=STATE):
        """Yield the key with the number of its values so far."""
        number = (seen.read() or 0) + 1
        seen.write(number)
        yield pair[0], number


class Plain(beam.DoFn):
    """A DoFn without states, one of whose attributes may hide a method."""

    def __init__(self, process=None):
        if process is not None:
            self.process = process

    def process(self, pair, seen=STATE):
        """Yield the pair."""
        yield pair


class Adder:
    """An object with a method for ``beam.Map``."""

    def add(self, pair):
        """Return the pair with another number."""
        return pair[0], pair[1] + 1


def test_each_dofn_has_the_specs_that_beam_finds():
    without = [Plain(lambda pair: [pair]), beam.ParDo(Adder().add).fn, beam.Map(Adder().add).fn, beam.Map(str).fn]
    dofns = [CountSoFar(), *without, Plain(), CountSoFar(), Plain(lambda pair: [pair])]
    expected = [userstate.get_dofn_specs(dofn) for dofn in dofns]
    assert [bool(states) for states, _ in expected] == [True, *[False] * 4, True, True, False]
    before = userstate.get_dofn_specs
    with inspect_once():
        assert [userstate.get_dofn_specs(dofn) for dofn in dofns] == expected
        assert [userstate.is_stateful_dofn(dofn) for dofn in dofns] == [bool(states) for states, _ in expected]
    assert userstate.get_dofn_specs is before


def test_a_run_inspects_a_class_once_and_keeps_its_states(monkeypatch):
    inspected: Counter[str] = Counter()
    inspect = userstate.get_dofn_specs

    def count(dofn):
        inspected[type(dofn).__name__] += 1
        return inspect(dofn)

    monkeypatch.setattr(userstate, "get_dofn_specs", count)
    options = PipelineOptions([])
    with inspect_once(), beam.Pipeline(local_runner(options, 1), options=options) as pipeline:
        pairs = pipeline | beam.Create([("a", 1), ("b", 1), ("a", 1)])
        numbered = pairs | "once" >> beam.ParDo(CountSoFar()) | "again" >> beam.ParDo(CountSoFar())
        assert_that(numbered | beam.Map(Adder().add), equal_to([("a", 2), ("a", 3), ("b", 2)]))
    # Beam's pickler makes another class of a class of a test. Without ``inspect_once``, there are 14 inspections.
    assert inspected["CountSoFar"] == 2
