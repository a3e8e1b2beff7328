"""``transformers serve`` with a small random model: one request at a time, 500 without JSON, no schemas."""

import pytest
from PIL import Image
from support.hosted.pictures import numbered
from support.hosted.queries import requests

from moondream_beam import OpenAIServer
from moondream_beam.models.structured.answers import answer_structured
from moondream_beam.models.tasks import Answer, Query, Request, Sampling

pytestmark = pytest.mark.slow
GREEDY = Sampling(max_tokens=8, temperature=0)


def results(annotator, asked):
    return {outcome.id: outcome.result for outcome in annotator.answer(asked)}


def test_the_server_is_of_the_kind_transformers_and_tells_no_revision(real_transformers_serve, caplog):
    annotator = OpenAIServer(real_transformers_serve.url)
    assert (annotator.discover().kind, annotator.revision) == ("transformers", "unknown")
    assert "does not tell the revision" in caplog.text
    annotator.check_servers()


def test_each_picture_has_its_own_answer_while_others_are_in_flight(real_transformers_serve):
    asked = [Request(f"r{number}", numbered(number), Query("What?"), GREEDY) for number in range(12)]
    single, many = (results(OpenAIServer(real_transformers_serve.url, concurrency=n), asked) for n in (1, 6))
    assert all(isinstance(result, Answer) and "What?" not in result.text for result in single.values())
    assert many == single and len({result.text for result in single.values()}) > 6


def test_a_picture_that_the_server_answers_with_500_fails_alone(real_transformers_serve):
    # The processor of Qwen raises for sides of more than 200 to 1.
    asked = [*requests(3), Request("thin", Image.new("RGB", (3000, 4)), Query("What?"), GREEDY)]
    found = results(OpenAIServer(real_transformers_serve.url), asked)
    fault = found.pop("thin")
    assert (fault.error, fault.attempts) == ("Unavailable", 3) and "500" in fault.message
    assert len(found) == 3 and all(isinstance(result, Answer) for result in found.values())


def test_a_schema_is_asked_for_in_words_and_a_bad_answer_is_a_fault(real_transformers_serve):
    asked = Request("a", numbered(1), Query("How many?", schema={"type": "object"}), GREEDY)
    (outcome,) = answer_structured(OpenAIServer(real_transformers_serve.url).answer, [asked])
    assert (outcome.result.error, outcome.result.attempts) == ("InvalidAnswer", 2)
