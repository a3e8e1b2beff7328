"""A run gets the states and timers that Beam finds in each DoFn, and inspects each class once."""

from __future__ import annotations

from collections import Counter

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import userstate
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from moondream_beam.pipelines.local_runner.dofn_specs import inspect_once
from moondream_beam.pipelines.local_runner.runner import local_runner

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
