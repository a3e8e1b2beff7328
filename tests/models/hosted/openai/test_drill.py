"""Many requests to each kind of vision server with faults of all kinds: each has one outcome, of its own picture."""

import pytest
from support.hosted.queries import requests
from support.servers.chat.dialects import DIALECTS
from support.servers.chat.mixed_faults import ERRORS, mixed_faults
from support.servers.chat.server import chat_server

from moondream_beam import OpenAIServer
from moondream_beam.models.tasks import Answer

COUNT, POISON = 100, {7, 50}


@pytest.mark.parametrize("kind", DIALECTS)
def test_each_request_has_one_outcome_and_no_answer_is_of_another_picture(kind, clock):
    with chat_server(kind, poison=POISON) as server:
        server.faults += mixed_faults()
        outcomes = list(OpenAIServer(server.url, clock=clock).answer(requests(COUNT)))
        assert all(fault.hits for fault in server.faults)
    assert sorted(outcome.id for outcome in outcomes) == sorted(f"r{number}" for number in range(COUNT))
    results = {int(outcome.id[1:]): outcome.result for outcome in outcomes}
    answers = {number: result.text for number, result in results.items() if isinstance(result, Answer)}
    assert all(int(text.rpartition(" | ")[2]) == number for number, text in answers.items())
    assert len(answers) > COUNT * 3 / 4 and not answers.keys() & POISON
    assert {results[number].error for number in results.keys() - answers.keys()} <= ERRORS
