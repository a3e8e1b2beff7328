"""Checks of a cluster before the first task, and what ended a job, from configurations and errors as Spark has them."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from support.data.echo import Echo

from moondream_beam import Moondream
from moondream_beam.pipelines.local_runner.signals import Interrupt, interruptible
from moondream_beam.pipelines.spark import cluster
from moondream_beam.pipelines.spark.cluster import TASK_GPUS, check_gpus, run_in_group, tasks_at_once
from moondream_beam.pipelines.spark.submit import with_engine
from moondream_beam.transforms.core.errors import RunStopped


def context(master: str = "spark://host:7077", **conf: str) -> Any:
    """Return what the checks read of a context of Spark."""
    return SimpleNamespace(master=master, getConf=lambda: conf, setJobGroup=lambda *_, **__: None)


def model(device: str) -> Moondream:
    return Moondream("tiny", device=device)


def test_a_gpu_that_spark_does_not_give_is_refused_before_the_first_task():
    with pytest.raises(ValueError, match=rf"cuda.*no GPU.*{TASK_GPUS}=1"):
        check_gpus(context(), model("cuda"))


@pytest.mark.parametrize("amount", ["0.5", "2"])
def test_a_share_of_a_gpu_or_several_are_refused(amount):
    with pytest.raises(ValueError, match=f"{TASK_GPUS}={amount}.*1"):
        check_gpus(context(**{TASK_GPUS: amount}), model("auto"))


def test_a_numbered_gpu_is_refused_where_spark_chooses():
    with pytest.raises(ValueError, match="cuda:1"):
        check_gpus(context(**{TASK_GPUS: "1"}), model("cuda:1"))


def test_the_wait_for_gpus_is_told_before_the_first_task(caplog):
    with caplog.at_level(logging.WARNING):
        assert check_gpus(context(**{TASK_GPUS: "1"}), model("cuda"))
    assert TASK_GPUS in caplog.text


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_other_devices_need_no_gpu(device):
    assert not check_gpus(context(), model(device))


def test_the_driver_may_use_its_own_gpu():
    assert not check_gpus(context("local[2]"), model("cuda"))
    assert not check_gpus(context(), Echo())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("PythonException: Traceback\nModuleNotFoundError: No module named 'moondream_beam'\n", "moondream_beam"),
        ("[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.10", "PYSPARK_PYTHON"),
        (
            "...\nmoondream_beam.transforms.core.errors.RunStopped: stopped: the disk is full\n\n\tat org",
            "disk is full",
        ),
        ("Job 0 cancelled because SparkContext was shut down", "ended this application"),
        (
            "Job aborted due to stage failure: Task 3 in stage 0.0 failed 4 times, most recent failure: Lost task 3.3"
            " in stage 0.0 (TID 9) (127.0.0.1 executor 1): ExecutorLostFailure (executor 1 exited)",
            "Task 3 in stage 0.0 failed 4 times",
        ),
    ],
)
def test_a_known_end_of_a_job_is_one_line(error, message):
    def fail() -> None:
        raise RuntimeError(error)

    with pytest.raises(RunStopped, match=message) as stopped:
        run_in_group(context(), "group", "a job", fail)
    assert "\n" not in str(stopped.value)


def test_a_call_into_java_has_no_time_limit_of_another_library():
    limits = []
    java = SimpleNamespace(
        setJobGroup=lambda *_, **__: limits.append(socket.getdefaulttimeout()),
        statusTracker=lambda: None,
        getConf=dict,
    )
    before = socket.getdefaulttimeout()
    # As Beam's client for gs:// does.
    socket.setdefaulttimeout(60)
    try:
        assert run_in_group(java, "group", "a job", lambda: "done") == "done"
        assert (limits, socket.getdefaulttimeout()) == ([None], 60)
    finally:
        socket.setdefaulttimeout(before)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({}, 2),
        ({"spark.task.cpus": "2"}, 1),
        ({"spark.task.cpus": "4"}, 1),
        ({"spark.cores.max": "16", "spark.task.cpus": "4"}, 4),
        ({"spark.executor.instances": "4", "spark.executor.cores": "8", "spark.task.cpus": "8"}, 4),
        ({"spark.executor.instances": "3"}, 3),
    ],
)
def test_tasks_at_once_are_those_of_the_executors_that_are_asked_for(conf, expected):
    asked_for = context(**conf)
    # No executor has registered yet: Spark takes two cores for granted.
    asked_for.defaultParallelism = 2
    assert tasks_at_once(asked_for) == expected


@pytest.mark.parametrize(("conf", "named"), [({}, "free cores"), ({TASK_GPUS: "1"}, "1 GPU")])
def test_a_wait_for_the_first_executor_is_reported_once(monkeypatch, caplog, conf, named):
    monkeypatch.setattr(cluster, "EXECUTOR_WAIT_S", 0.05)
    monkeypatch.setattr(cluster, "POLL_S", 0.01)
    waiting = context(**conf)
    waiting.statusTracker = lambda: SimpleNamespace(getJobIdsForGroup=lambda group: [], getJobInfo=lambda job: None)
    told = threading.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    handler = Told()
    cluster.logger.addHandler(handler)
    try:
        assert run_in_group(waiting, "group", "a job", lambda: told.wait(60)), "nothing was logged while the job waited"
    finally:
        cluster.logger.removeHandler(handler)
    (message,) = (record.getMessage() for record in caplog.records)
    assert "no executor" in message and named in message


def test_an_interrupt_asks_the_job_to_stop_and_gives_it_time(monkeypatch):
    monkeypatch.setattr(cluster, "POLL_S", 60.0)
    ended, order = threading.Event(), []
    java = context()
    java.cancelJobGroup = lambda group: order.append(f"cancelled, ended: {ended.is_set()}")

    def job() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        assert asked.wait(60)
        time.sleep(0.2)
        ended.set()

    asked = threading.Event()
    with pytest.raises(Interrupt), interruptible():
        run_in_group(java, "group", "a job", job, lambda: asked.set() or order.append("asked"), 60.0)
    assert order == ["asked", "cancelled, ended: True"]


def test_any_other_error_is_raised_as_it_is():
    def fail() -> None:
        raise KeyError("something else")

    with pytest.raises(KeyError, match="something else"):
        run_in_group(context(), "group", "a job", fail)


def test_submit_adds_the_engine_to_annotate_only():
    assert with_engine(["annotate", "in"]) == ["annotate", "--engine", "spark", "in"]
    assert with_engine(["status", "out"]) == ["status", "out"]
