"""Moondream at fal: the official client against a server that answers for its real names."""

from hosted.pictures import numbered

from moondream_beam.models.fal import Fal
from moondream_beam.models.tasks import Query, Request


def requests(count):
    return [Request(f"r{number}", numbered(number), Query()) for number in range(count)]


def test_each_picture_has_its_own_answer(api, clock):
    outcomes = list(Fal(clock=clock).answer(requests(40)))
    assert {outcome.id: outcome.result.text for outcome in outcomes} == {
        f"r{number}": f"Describe this image. | {number}" for number in range(40)
    }
    assert len(outcomes) == 40
    assert len(api.fal.jobs) == 3
