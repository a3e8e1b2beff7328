"""Ask queries with a schema in words, check their answers, and ask once more for an answer that does not fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from ..hosted.payment.billing import Billing
from ..tasks import Answer, Fault, Outcome, Query, Request, Timings, Tokens
from .schema import find_problem, json_of

Answering = Callable[[Iterable[Request]], Iterator[Outcome]]

# How many answers that do not fit are collected before their requests are asked again.
COLLECTED_REQUESTS = 16
# Of the first answer, in the second prompt.
MAX_QUOTED_CHARACTERS = 1000
# A request that is asked again has another id, because the journal of paid jobs has an answer to the first one.
SECOND = "#2"


def answer_structured(answer: Answering, requests: Iterable[Request]) -> Iterator[Outcome]:
    """Yield the outcomes of ``answer`` for the requests. The text of an answer with a schema is JSON that fits.

    A request whose answer does not fit is asked once more, with the reason. If the second answer does not fit either,
    the result is an ``InvalidAnswer`` fault. Tokens, times and bills of both requests are added.
    """
    asked: defaultdict[str, list[Request]] = defaultdict(list)

    def in_words() -> Iterator[Request]:
        for request in requests:
            if isinstance(request.task, Query) and request.task.schema is not None:
                asked[request.id].append(request)
                request = replace(request, task=_in_words(request.task))
            yield request

    invalid: list[tuple[Request, Outcome, str]] = []
    with closing(_as_generator(answer(in_words()))) as outcomes:
        for outcome in outcomes:
            if not asked or not (kept := asked.get(outcome.id)):
                yield outcome
                continue
            request = kept.pop()
            if not kept:
                del asked[outcome.id]
            checked, problem = _checked(request, outcome)
            if problem is None:
                yield checked
            else:
                invalid.append((request, outcome, problem))
            if len(invalid) >= COLLECTED_REQUESTS:
                yield from _ask_again(answer, invalid)
                invalid = []
    if invalid:
        yield from _ask_again(answer, invalid)


def _as_generator(outcomes: Iterator[Outcome]) -> Generator[Outcome, None, None]:
    """Return a generator, which has the ``close`` that an iterator may lack."""
    yield from outcomes


def _checked(request: Request, outcome: Outcome) -> tuple[Outcome, str | None]:
    """Return the outcome with its answer as JSON, and why the answer does not fit; None if it fits or is a fault."""
    result = outcome.result
    assert isinstance(request.task, Query) and isinstance(request.task.schema, str)
    if isinstance(result, Fault):
        return outcome, None
    text = json_of(result.text or "")
    problem = find_problem(text, request.task.schema)
    if problem is not None and result.finish_reason == "length":
        problem = f"it ends at the limit on tokens, raise --max-tokens: {problem}"
    return replace(outcome, result=replace(result, text=text)), problem


def _ask_again(answer: Answering, invalid: list[tuple[Request, Outcome, str]]) -> Iterator[Outcome]:
    """Yield the outcome of each request after a second answer."""
    firsts = defaultdict(list)
    for request, outcome, _ in invalid:
        firsts[request.id + SECOND].append((request, outcome))
    again = (
        replace(request, id=request.id + SECOND, task=_with_problem(request.task, outcome.result, problem))
        for request, outcome, problem in invalid
    )
    for second in answer(again):
        request, first = firsts[second.id].pop()
        checked, misfit = _checked(request, second)
        if misfit is not None:
            message = f"the answer does not fit the JSON schema, also the second time: {misfit}"
            message += "; simplify the schema or use another model, and run again with --retry-errors"
            checked = replace(checked, result=Fault("InvalidAnswer", message, retryable=True, attempts=2))
        yield _sum(first, checked)


def _in_words(task: Query) -> Query:
    """Return the query with its schema in the question. The schema stays for servers that enforce it."""
    return replace(
        task, question=f"{task.question}\n\nAnswer only with JSON that fits this JSON schema:\n{task.schema}"
    )


def _with_problem(task: object, result: Answer | Fault, problem: str) -> Query:
    assert isinstance(task, Query) and isinstance(result, Answer)
    asked = _in_words(task)
    quoted = (result.text or "")[:MAX_QUOTED_CHARACTERS]
    return replace(asked, question=f"{asked.question}\n\nThis answer was wrong:\n{quoted}\nThe error: {problem}")


def _sum(first: Outcome, second: Outcome) -> Outcome:
    """Return the second outcome with the id of the first, and the tokens, times and bills of both."""
    timings = Timings(*(getattr(first.timings, name) + getattr(second.timings, name) for name in vars(first.timings)))
    tokens = Tokens(first.tokens.input + second.tokens.input, first.tokens.output + second.tokens.output)
    return replace(second, id=first.id, timings=timings, tokens=tokens, hosted=_sum_bills(first.hosted, second.hosted))


def _sum_bills(first: Billing | None, second: Billing | None) -> Billing | None:
    if first is None or second is None:
        return second or first
    usd = None if first.usd is None and second.usd is None else (first.usd or 0.0) + (second.usd or 0.0)
    return second._replace(units=first.units + second.units, usd=usd, estimated=first.estimated or second.estimated)
