"""The session of Spark that the command uses: the one of spark-submit, or a new one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...models.tasks import Annotator
from ..local_runner.signals import interruptible
from .cluster import check_gpus, context_of, task_cpus, tasks_at_once

APP_NAME = "moondream-beam annotate"
PYTHON = "PYSPARK_PYTHON"


@dataclass(frozen=True)
class Session:
    """A session of Spark, with the numbers of its cluster that a job needs."""

    spark: Any

    @property
    def task_cpus(self) -> int:
        """The number of CPU threads for each task."""
        return task_cpus(context_of(self.spark))

    @property
    def tasks_at_once(self) -> int:
        """The number of tasks that the executors of now can run at the same time, at least 1."""
        return tasks_at_once(context_of(self.spark))

    def check(self, annotator: Annotator) -> None:
        """Check the GPUs of the tasks, as ``check_gpus`` does."""
        check_gpus(context_of(self.spark), annotator)


@contextlib.contextmanager
def spark_session(master: str | None) -> Iterator[Session]:
    """Yield the session of this process, or a new one, and end it after the block.

    Args:
        master: the URL of the master; None for that of spark-submit or spark-defaults.conf, or else this machine.

    Raises:
        ImportError: if PySpark is not installed.
        RuntimeError: if Spark does not start, such as without Java or with a master that cannot be reached.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ImportError("--engine spark needs PySpark: pip install 'moondream-beam[spark]'") from error
    # Without this, executors start "python3", which is often not the environment of this process.
    os.environ.setdefault(PYTHON, sys.executable)
    builder = SparkSession.builder.appName(APP_NAME).config("spark.ui.showConsoleProgress", "false")
    try:
        spark = (builder.master(master) if master else builder).getOrCreate()
    except PySparkException as error:
        cause = " ".join(str(error).split())
        raise RuntimeError(
            f"Spark does not start: {cause} Spark 4 needs Java 17, and Spark 3.5 Java 8, 11 or 17"
        ) from error
    except Exception as error:
        raise RuntimeError(f"Spark does not start: {' '.join(str(error).split())[:300]}") from error
    try:
        # Spark has replaced the handler of SIGINT.
        with interruptible():
            yield Session(spark)
    finally:
        spark.stop()
