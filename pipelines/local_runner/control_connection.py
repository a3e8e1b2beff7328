"""The control connection of a worker process, whose requests can be refused once the process is gone."""

from __future__ import annotations

import threading
from typing import Any

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import ControlConnection, ControlFuture


class RefusableConnection:
    """Beam's control connection of one worker process, with a record of the requests that were sent over it.

    ``ControlConnection.abort`` of Beam is no replacement for ``refuse``. Beam's runner waits for the data of a bundle
    until the request of that bundle has a response with an error, and an aborted request never has a response.
    """

    def __init__(self, connection: ControlConnection) -> None:
        # Beam's overloads make mypy believe that ``push`` returns None.
        self._connection: Any = connection
        self._lock = threading.Lock()
        self._sent: list[ControlFuture] = []
        self._refusal: str | None = None

    def push(self, request: beam_fn_api_pb2.InstructionRequest) -> ControlFuture:
        """Send a request to the process.

        Returns:
            The future of the response. After ``refuse`` the request is not sent, and the future is done.
        """
        with self._lock:
            if self._refusal is not None:
                return ControlFuture(request.instruction_id, _error(request.instruction_id, self._refusal))
            future: ControlFuture = self._connection.push(request)
            self._sent.append(future)
            return future

    def refuse(self, reason: str) -> None:
        """Respond to every request without a response, and to every later one, with the error ``reason``."""
        with self._lock:
            self._refusal = reason
            for future in self._sent:
                if not future.is_done():
                    future.set(_error(future.instruction_id, reason))

    def has_response(self) -> bool:
        """Return whether any of the requests that were sent has a response."""
        with self._lock:
            return any(future.is_done() for future in self._sent)

    def close(self) -> None:
        """Close the stream of requests, and wait without a time limit until the process disconnects.

        If the process never connected, return at once.
        """
        self._connection.close()


def _error(instruction_id: str, reason: str) -> beam_fn_api_pb2.InstructionResponse:
    return beam_fn_api_pb2.InstructionResponse(instruction_id=instruction_id, error=reason)
