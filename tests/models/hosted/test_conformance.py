"""Every annotator keeps the contract of ``Annotator`` in models/tasks.py."""

import itertools
import pickle
from pathlib import Path

import pytest
from PIL import Image
from support.checkpoints.families import save_checkpoint
from support.hosted.clock import QuickClock
from support.hosted.fixtures import use_server
from support.hosted.server import serving
from support.servers.chat.dialects import DIALECTS
from support.servers.chat.server import chat_server

from moondream_beam.models.hosted.cloud.annotator import MoondreamCloud
from moondream_beam.models.hosted.fal.annotator import Fal
from moondream_beam.models.hosted.fallback import Fallback
from moondream_beam.models.hosted.openai.annotator import OpenAIServer
from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints.files import WEIGHTS_FILE
from moondream_beam.models.moondream.checkpoints.sources import EMBEDDED
from moondream_beam.models.tasks import Answer, Caption, Detect, Fault, Outcome, Point, Query, Request, Sampling
from moondream_beam.models.transformers.annotator import TransformersModel

GOLDEN = Path(__file__).parents[2] / "golden" / "public"
ANNOTATORS = {
    "reference": lambda: Moondream(str(GOLDEN), device="cpu", batch_size=3),
    "tiny": lambda: Moondream("tiny", device="cpu", batch_size=3),
}
HOSTED = {
    "fal": lambda: Fal(clock=QuickClock()),
    "cloud": lambda: MoondreamCloud(clock=QuickClock()),
    "cloud batch": lambda: MoondreamCloud(batch=True, batch_size=8, clock=QuickClock()),
    "fallback": lambda: Fallback(Moondream("tiny", device="cpu", batch_size=3), Fal(clock=QuickClock())),
}
FAMILIES = ("smolvlm", "florence2")
SERVERS = {f"{kind} server": kind for kind in DIALECTS}
# Fixtures of conftest.py.
REAL_SERVERS = ("real_llama_cpp", "real_transformers_serve")
SLOW = pytest.param("real_transformers_serve", marks=pytest.mark.slow)
TASKS = {Caption: Caption("short"), Query: Query("dog"), Detect: Detect("dog", 2), Point: Point("dog", 2)}
BRIEF = Sampling(max_tokens=4)


@pytest.fixture(scope="module", params=[*ANNOTATORS, *HOSTED, *SERVERS, REAL_SERVERS[0], SLOW, *FAMILIES])
def annotator(request, tmp_path_factory):
    if request.param in SERVERS:
        with pytest.MonkeyPatch.context() as patch, chat_server(SERVERS[request.param]) as server:
            patch.delenv("OPENAI_API_KEY", raising=False)
            yield OpenAIServer(server.url, clock=QuickClock())
        return
    if request.param in REAL_SERVERS:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("OPENAI_API_KEY", raising=False)
            yield OpenAIServer(request.getfixturevalue(request.param).url)
        return
    if request.param in FAMILIES:
        folder = save_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
        yield TransformersModel(str(folder), device="cpu", batch_size=3)
        return
    if request.param in HOSTED:
        with pytest.MonkeyPatch.context() as patch, serving(tmp_path_factory.mktemp("api")) as server:
            use_server(patch, server)
            yield HOSTED[request.param]()
        return
    if request.param == "tiny" and not (EMBEDDED["tiny"] / WEIGHTS_FILE).exists():
        pytest.skip("the embedded checkpoint is not there")
    yield ANNOTATORS[request.param]()


@pytest.fixture
def ask(annotator):
    """An endless stream of requests: every supported task on a few pictures."""

    def ask():
        pictures = [Image.new("RGB", size, colour) for size, colour in (((40, 30), "red"), ((300, 900), "blue"))]
        tasks = [TASKS[kind] for kind in sorted(annotator.tasks, key=lambda kind: kind.name)]
        for number, (picture, task) in enumerate(itertools.cycle(itertools.product(pictures, tasks))):
            yield Request(f"request {number}", picture, task, BRIEF)

    return ask


def broken(name):
    """A request that no annotator can answer: its picture has no pixels."""
    return Request(name, Image.new("RGB", (0, 0)), Caption(), BRIEF)


def take(requests, count):
    return list(itertools.islice(requests, count))


def test_an_annotator_has_a_name_a_revision_and_tasks(annotator):
    assert isinstance(annotator.name, str) and annotator.name
    assert isinstance(annotator.revision, str) and annotator.revision
    assert isinstance(annotator.tasks, frozenset) and annotator.tasks <= set(TASKS)
    assert annotator.tasks


@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_request_has_exactly_one_outcome(annotator, ask, count):
    requests = take(ask(), count)
    outcomes = list(annotator.answer(requests))
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert sorted(outcome.id for outcome in outcomes) == sorted(request.id for request in requests)


def test_an_answer_has_only_the_field_of_its_task(annotator, ask):
    requests = {request.id: request for request in take(ask(), 8)}
    for outcome in annotator.answer(requests.values()):
        task, answer = requests[outcome.id].task, outcome.result
        assert isinstance(answer, Answer)
        assert answer.finish_reason in ("stop", "length")
        filled = {name for name in ("text", "objects", "points") if getattr(answer, name) is not None}
        assert filled == {{Detect: "objects", Point: "points"}.get(type(task), "text")}
        places = answer.objects or answer.points or ()
        assert len(places) <= 2
        assert all(0 <= number <= 1 for place in places for number in place)
        assert all(box.x_min <= box.x_max and box.y_min <= box.y_max for box in answer.objects or ())


def test_an_endless_stream_is_answered_while_it_is_pulled(annotator, ask):
    stream = annotator.answer(ask())
    outcomes = take(stream, 9)
    assert len({outcome.id for outcome in outcomes}) == 9
    stream.close()


def test_a_broken_request_is_a_fault_and_raises_nothing(annotator, ask):
    requests = [broken("first"), *take(ask(), 2), broken("middle"), *take(ask(), 1), broken("last")]
    results = [(outcome.id, type(outcome.result)) for outcome in annotator.answer(requests)]
    wanted = [(request.id, Answer if request.id.startswith("request") else Fault) for request in requests]
    assert sorted(results, key=str) == sorted(wanted, key=str)


def test_a_fault_has_an_error_a_message_and_a_backend(annotator):
    (outcome,) = annotator.answer([broken("only")])
    assert outcome.result.error and outcome.result.message
    assert outcome.backend


def test_timings_and_tokens_are_not_negative(annotator, ask):
    for outcome in annotator.answer(take(ask(), 5)):
        timings, tokens = outcome.timings, outcome.tokens
        assert min(timings.wait_ms, timings.encode_ms, timings.generate_ms, tokens.input, tokens.output) >= 0
        assert outcome.backend


def test_a_pickled_annotator_is_the_same_and_answers(annotator, ask):
    list(annotator.answer(take(ask(), 1)))
    arrived = pickle.loads(pickle.dumps(annotator))
    assert (arrived.name, arrived.revision, arrived.tasks) == (annotator.name, annotator.revision, annotator.tasks)
    assert len(list(arrived.answer(take(ask(), 4)))) == 4


def test_the_same_request_gets_the_same_answer_in_another_order(annotator, ask):
    requests = take(ask(), 8)
    first, second = (
        {outcome.id: outcome.result for outcome in annotator.answer(order)} for order in (requests, requests[::-1])
    )
    assert first == second
