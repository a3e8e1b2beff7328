"""The cluster as the driver sees it: its resources, the wait for executors, and what ended a job."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ...models.tasks import Annotator
from ...transforms.core.errors import RunStopped, stop_reason

if TYPE_CHECKING:
    from pyspark import SparkContext

POLL_S = 0.2
# A job that no executor has begun after this time may wait forever. Spark alone says so only in its log, if at all.
EXECUTOR_WAIT_S = 60.0
TASK_GPUS, EXECUTOR_GPUS = "spark.task.resource.gpu.amount", "spark.executor.resource.gpu.amount"
GPU_CURE = f"Set {EXECUTOR_GPUS}=1, {TASK_GPUS}=1 and spark.executor.resource.gpu.discoveryScript."
MAX_REASON = 300

logger = logging.getLogger(__name__)
T = TypeVar("T")


def context_of(spark: Any) -> SparkContext:
    """Return the context of a session.

    Raises:
        ValueError: if the session is one of Spark Connect, which runs no RDD.
    """
    try:
        return spark.sparkContext
    except Exception as error:
        raise ValueError(
            "this session is one of Spark Connect, which cannot run the resumable job: use a classic session, or the"
            " transform annotate(df, ...)"
        ) from error


def is_local(context: SparkContext) -> bool:
    """Return whether the driver itself runs the tasks."""
    return bool(re.fullmatch(r"local(\[.*\])?", context.master or ""))


def task_cpus(context: SparkContext) -> int:
    """Return the number of cores of one task, ``spark.task.cpus``."""
    return int(context.getConf().get("spark.task.cpus", "1") or 1)


def tasks_at_once(context: SparkContext) -> int:
    """Return the number of tasks that can run at the same time, at least 1.

    It counts the executors of now, or those that the configuration asks for if these are more: executors register some
    seconds after the start of an application.
    """
    conf = context.getConf()
    executors = int(conf.get("spark.executor.instances", "0") or 0) * int(conf.get("spark.executor.cores", "1") or 1)
    cores = max(context.defaultParallelism, executors, int(conf.get("spark.cores.max", "0") or 0))
    return max(1, cores // task_cpus(context))


def device_of(annotator: Annotator) -> str:
    """Return the device that the annotator was given; "" if it runs no model itself."""
    return str(getattr(annotator, "device", ""))


def check_gpus(context: SparkContext, annotator: Annotator) -> bool:
    """Check the GPUs of the tasks. Log what the tasks wait for.

    Returns:
        Whether a task without a GPU must stop the run.

    Raises:
        ValueError: if the annotator needs a GPU and Spark gives its tasks none, if tasks would share one, or if the
            device of the annotator has a number.
    """
    device, amount = device_of(annotator), context.getConf().get(TASK_GPUS)
    if amount is None:
        if device.startswith("cuda") and not is_local(context):
            raise ValueError(f"device {device}: Spark gives its tasks no GPU. {GPU_CURE}")
        return False
    if float(amount) != 1:
        raise ValueError(f"{TASK_GPUS}={amount}: one process uses one whole GPU, so set it to 1")
    if re.fullmatch(r"cuda:\d+", device):
        raise ValueError(f"device {device}: Spark chooses the GPU of each task, so give the device cuda")
    if not is_local(context):
        logger.warning("each task waits for an executor with a free GPU, because %s is %s", TASK_GPUS, amount)
    return device.startswith("cuda") and not is_local(context)


def run_in_group(
    context: SparkContext,
    group: str,
    description: str,
    action: Callable[[], T],
    stop: Callable[[], object] = lambda: None,
    stop_s: float = 0.0,
) -> T:
    """Run an action of Spark in a thread of its own, and return what the action returns.

    If no executor has begun a task after ``EXECUTOR_WAIT_S``, log that. If this thread is interrupted, call ``stop``,
    give the action ``stop_s`` seconds to end, and cancel its jobs.

    Raises:
        RunStopped: if the job failed for a reason that is known to end runs.
        Exception: any other error of the action.
    """
    running = _Action(context, group, description, action)
    try:
        running.start()
        _wait(context, group, running.ended)
    except BaseException:
        stop()
        running.ended.wait(stop_s)
        # Java may be gone: a terminal interrupts all of its processes, and spark-submit is one of Java.
        with contextlib.suppress(Exception):
            context.cancelJobGroup(group)
        running.ended.wait(EXECUTOR_WAIT_S)
        raise
    if running.error is None:
        return cast(T, running.result)
    if stopped := _run_stopped(running.error):
        raise stopped from running.error
    raise running.error


class _Action(threading.Thread):
    """A thread that runs an action of Spark in a group of jobs, and keeps what it returns or raises.

    ``ended``: set at its end. It takes the place of ``join``: if a signal interrupts ``join``, Python takes the thread
    for ended, and later calls return at once.
    """

    def __init__(self, context: SparkContext, group: str, description: str, action: Callable[[], object]) -> None:
        # A daemon, because the call into Java returns only when the job ends.
        super().__init__(name=group, daemon=True)
        self.result: object = None
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._context, self._description, self._action = context, description, action

    def run(self) -> None:
        """Run the action."""
        try:
            with _sockets_without_timeout():
                self._context.setJobGroup(self.name, self._description, interruptOnCancel=True)
            self.result = self._action()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


@contextlib.contextmanager
def _sockets_without_timeout() -> Iterator[None]:
    """Within this block, give new sockets no time limit.

    Beam's client for ``gs://`` gives a limit of 60 seconds to all sockets that the process opens afterwards. The first
    call of a thread into Java opens one, and the call that runs a job waits in it until the job ends.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _wait(context: SparkContext, group: str, ended: threading.Event) -> None:
    """Wait until the action has ended, and warn once if no task has begun within ``EXECUTOR_WAIT_S``."""
    began, has_begun = time.monotonic(), False
    while not ended.wait(POLL_S):
        if has_begun or time.monotonic() - began < EXECUTOR_WAIT_S:
            continue
        if not (has_begun := has_begun_a_task(context, group)):
            gpus = context.getConf().get(TASK_GPUS)
            logger.warning(
                "no executor has begun a task for %.0f seconds: look in the page of the cluster for free cores and"
                " memory%s; Ctrl-C ends the run",
                EXECUTOR_WAIT_S,
                f", and for workers with {gpus} GPU for each task" if gpus else "",
            )
            has_begun = True


def has_begun_a_task(context: SparkContext, group: str) -> bool:
    """Return whether a task of the jobs of a group runs or has ended."""
    tracker = context.statusTracker()
    jobs = filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup(group)))
    stages = filter(None, (tracker.getStageInfo(stage) for job in jobs for stage in job.stageIds))
    return any(stage.numActiveTasks + stage.numCompletedTasks + stage.numFailedTasks for stage in stages)


def _run_stopped(error: BaseException) -> RunStopped | None:
    """Return a RunStopped for an error with a known cause, and None for any other error."""
    if reason := stop_reason(error):
        return RunStopped(reason)
    text = str(error)
    resume = "Committed rows are kept. Run the same command again to resume."
    if missing := re.search(r"ModuleNotFoundError: No module named '([^']+)'", text):
        return RunStopped(
            f"stopped: the executors have no Python package {missing[1]}: give them the environment of the driver, as"
            " docs/clusters/spark.md describes, and run the same command again"
        )
    if "PYTHON_VERSION_MISMATCH" in text:
        return RunStopped(
            "stopped: driver and executors run different versions of Python: set PYSPARK_PYTHON to the interpreter of"
            " the executors that has the version of the driver, and run the same command again"
        )
    lost = re.search(r"Job aborted due to stage failure: (Task .*? failed \d+ times).*? failure: (.*)", text)
    if lost and ("ExecutorLostFailure" in lost[2] or "Python worker exited unexpectedly" in text):
        return RunStopped(f"stopped: {lost[1]}: {lost[2][:MAX_REASON]}. {resume}")
    if "SparkContext was shut down" in text or type(error).__name__ == "Py4JNetworkError":
        return RunStopped(f"stopped: Spark has ended this application. {resume}")
    return None
