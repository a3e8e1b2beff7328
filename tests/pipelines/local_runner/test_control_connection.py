"""Requests to a dead worker process get an error response, so that Beam's runner does not wait for ever."""

from __future__ import annotations

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import ControlConnection

from moondream_beam.pipelines.local_runner.control_connection import RefusableConnection

GONE = "worker_0 was killed by signal 9"


def test_a_request_is_sent_and_its_future_waits_for_the_response_of_the_process():
    beam = ControlConnection()
    connection = RefusableConnection(beam)
    request = beam_fn_api_pb2.InstructionRequest(instruction_id="bundle_1")
    future = connection.push(request)
    assert beam.get_req() is request
    assert not future.is_done() and not connection.has_response()
    beam.set_input(iter([beam_fn_api_pb2.InstructionResponse(instruction_id="bundle_1")]))
    assert future.get(timeout=10).error == ""
    assert connection.has_response()
    connection.close()


def test_requests_without_a_response_and_later_ones_are_refused():
    beam = ControlConnection()
    connection = RefusableConnection(beam)
    answered, open_ = (
        connection.push(beam_fn_api_pb2.InstructionRequest(instruction_id=f"bundle_{number}")) for number in (1, 2)
    )
    beam.set_input(iter([beam_fn_api_pb2.InstructionResponse(instruction_id="bundle_1")]))
    answered.get(timeout=10)
    connection.refuse(GONE)
    later = connection.push(beam_fn_api_pb2.InstructionRequest(instruction_id="bundle_3"))
    assert open_.is_done() and later.is_done()
    assert answered.get().error == ""
    assert [(future.get().instruction_id, future.get().error) for future in (open_, later)] == [
        ("bundle_2", GONE),
        ("bundle_3", GONE),
    ]
    assert [beam.get_req().instruction_id for _ in range(2)] == ["bundle_1", "bundle_2"]
    connection.close()


def test_a_connection_that_no_process_has_made_is_closed_at_once():
    RefusableConnection(ControlConnection()).close()
