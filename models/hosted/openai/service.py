"""Vision servers as a ``Service``: a job is one chat completion, sent to one of several servers."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from ...tasks import Caption, Query, Task
from ..cloud.protocol import cost_usd
from ..dispatch.calls import CallService
from ..dispatch.rate_limiter import Clock
from ..http.errors import LostAnswerError, NotSentError, RejectedError, UnavailableError
from ..service import Item, JobResult, Reply, Settings
from .discovery import IGNORES_SCHEMAS, PENALTY_FIELDS, ServerInfo
from .pool import ServerPool
from .probe import Prober
from .protocol import MAX_FIELDS, other_max_field, parse_tokens, reply_to, request_body, request_fields, seed_of
from .transport import BusyError, ServerClient, TimedOutError

log = logging.getLogger(__name__)

# How often a request of a free server is sent if its connection breaks, or if it has no answer within the time limit.
MAX_BROKEN, MAX_TIMED_OUT = 4, 2
# How long the end of a stream waits for calls whose answers are billed.
CANCEL_WAIT_S = 10.0


class ChatService(CallService):
    """Chat completions of the servers that ``connect`` returns clients for.

    ``prices``: dollars per million tokens in and out; None for free servers, which are asked again for a lost answer.
    ``prompts``: the text for each length of a caption.
    """

    # A server that answers 500 is asked twice more.
    max_resubmits = 2

    def __init__(
        self,
        connect: Callable[[], list[ServerClient]],
        info: ServerInfo,
        prompts: Mapping[str, str],
        prices: tuple[float, float] | None,
        threads: int,
        timeout_s: float,
        clock: Clock,
    ) -> None:
        super().__init__(threads, "openai", CANCEL_WAIT_S if prices else 0.0)
        self.info, self.prompts, self.prices = info, prompts, prices
        self.backend = f"openai/{info.kind}/{info.model}"
        # A call may include probes, and tries at several servers.
        self.deadline_s = 1800.0 + 2 * MAX_TIMED_OUT * timeout_s
        self._connect, self._clock = connect, clock
        self._pool: ServerPool | None = None
        self._prober = Prober(self._chat, info, clock, counts_prompts=prices is None)
        self._max_field, self._sends_schemas = MAX_FIELDS[0], info.kind not in IGNORES_SCHEMAS
        self._lost: Counter[str] = Counter()
        self._lost_lock = threading.Lock()

    def parse(self, answer: Any, items: Sequence[Item | None]) -> list[Reply | None]:
        """Return the reply for the one item. None stays None."""
        return [reply_to(answer, self.backend) if item else None for item in items]

    def check_servers(self) -> None:
        """Check that the first server that answers takes pictures. Raise CallError or AccountError if none does."""
        clients = self._connect()
        try:
            for last, client in enumerate(clients, 1 - len(clients)):
                try:
                    self._prober.check_server(client)
                    return
                except NotSentError:
                    if last == 0:
                        raise
        finally:
            for client in clients:
                client.close()

    def _prepare_call(self, item: Item) -> Callable[[], JobResult]:
        if self._pool is None:
            self._pool = ServerPool(self._connect(), self._clock, self._prober.test_server)
        return partial(self._call, self._pool, item)

    def _disconnect(self) -> None:
        pool, self._pool = self._pool, None
        if pool:
            pool.close()

    def _call(self, pool: ServerPool, item: Item) -> JobResult:
        """Return the answer about one item from the first server that gives one.

        Raises:
            ThrottledError: if no server can be reached or is ready. The item is then sent again later.
            LostAnswerError: if a paid answer was lost.
            UnavailableError: if a server failed, or an answer of a free server was lost too often.
            RejectedError: if the item is to blame.
            AccountError: if a server refuses the key, or rejects all requests.
        """
        lost_by = None
        while True:
            # A server that has died breaks all its connections, each at its next request.
            server = pool.acquire(item.jpeg, avoid=lost_by)
            try:
                result = self._ask(server.client, item)
            except NotSentError as error:
                pool.on_down(server, str(error), is_busy=isinstance(error, BusyError))
            except LostAnswerError as error:
                lost_by = server
                if timed_out := isinstance(error, TimedOutError):
                    pool.on_down(server, str(error), is_suspect=True)
                self._on_lost(item, error, MAX_TIMED_OUT if timed_out else MAX_BROKEN)
            except RejectedError as error:
                self._prober.blame(server.client, item.settings, error)
                raise
            else:
                pool.on_answer(server)
                with self._lost_lock:
                    self._lost.pop(item.id, None)
                return result
            finally:
                pool.release(server)

    def _ask(self, client: ServerClient, item: Item) -> JobResult:
        text = prompt_of(item.task, self.prompts)
        fewest, context = self._prober.token_bounds(client, text)
        started = perf_counter()
        schema = item.task.schema if isinstance(item.task, Query) and isinstance(item.task.schema, str) else None
        answer = self._chat(client, text, item.jpeg, item.settings, seed=seed_of(item.id), schema=schema)
        seconds = perf_counter() - started
        call = {"answer": answer, "seconds": seconds, "fewest_tokens": fewest, "context": context}
        tokens = parse_tokens(answer.get("usage"))
        if tokens is None:
            return JobResult(call, None, None)
        pair = (tokens.input, tokens.output)
        return JobResult(call, float(sum(pair)), cost_usd(pair, self.prices) if self.prices else None)

    def _chat(
        self,
        client: ServerClient,
        text: str,
        jpeg: bytes | None,
        settings: Settings,
        limit_s: float | None = None,
        seed: int = 0,
        schema: str | None = None,
    ) -> dict[str, Any]:
        """Return the answer of a server as JSON. The schema is left out if the server rejects a request for it."""
        if schema is None or not self._sends_schemas:
            return self._send(client, text, jpeg, settings, limit_s, seed)
        try:
            return self._send(client, text, jpeg, settings, limit_s, seed, schema)
        except RejectedError as error:
            reason = error
        # The prompt has the schema in words. If the picture is to blame, this request is rejected too.
        answer = self._send(client, text, jpeg, settings, limit_s, seed)
        if self._sends_schemas:
            self._sends_schemas = False
            log.warning("%s: %s does not enforce the JSON schema, answers are only checked", reason, client.name)
        return answer

    def _send(
        self,
        client: ServerClient,
        text: str,
        jpeg: bytes | None,
        settings: Settings,
        limit_s: float | None,
        seed: int,
        schema: str | None = None,
    ) -> dict[str, Any]:
        """Return the answer of a server as JSON. If the server asks for the other name of the token limit, use that."""
        field = self._max_field
        fields = request_fields(self.info.model, settings, field, seed, schema)
        if settings.repetition_penalty != 1:
            fields[PENALTY_FIELDS[self.info.kind]] = settings.repetition_penalty
        try:
            return client.chat(request_body(fields, text, jpeg), limit_s)
        except RejectedError as error:
            other = other_max_field(field, str(error))
            if other is None:
                raise
        self._max_field = other
        fields[other] = fields.pop(field)
        return client.chat(request_body(fields, text, jpeg), limit_s)

    def _on_lost(self, item: Item, error: LostAnswerError, most: int) -> None:
        """Count a lost answer. Return if the item may be sent again.

        Raises:
            LostAnswerError: ``error``, if the server is paid.
            UnavailableError: if ``most`` answers about this item were lost.
        """
        if self.prices:
            raise error
        with self._lost_lock:
            self._lost[item.id] += 1
            if self._lost[item.id] < most:
                return
            del self._lost[item.id]
        raise UnavailableError(f"{error}, {most} times", retryable=False) from error


def prompt_of(task: Task, prompts: Mapping[str, str]) -> str:
    """Return the text that is sent for a query, or for a caption of that length."""
    return prompts[task.length] if isinstance(task, Caption) else task.prompt
