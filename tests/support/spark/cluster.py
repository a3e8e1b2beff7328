"""A standalone cluster of Spark on loopback, from the jars of pyspark: a master, and two workers with four cores each.

Each worker claims one GPU, with a number of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from support.ports import free_port
from support.spark.session import need_java

ROOT = Path(__file__).parents[3]
PATIENCE = 400.0
CLASSES = "org.apache.spark.deploy"


def until(is_so: Callable[[], Any]) -> Any:
    """Wait until a function returns something true, and return that."""
    end = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
    return found


class Cluster:
    """A master, two workers, and the environment of programs that use them. All listen on loopback only."""

    def __init__(self, folder: Path) -> None:
        import pyspark

        self.folder, self.home = folder, Path(pyspark.__file__).parent
        self.port, self.page = free_port(), free_port()
        self.workers: list[psutil.Process] = []
        # The number of the GPU that each worker claims, by its process.
        self._gpus: dict[int, str] = {}
        self._num_started = 0
        self.master = self._start("master.Master", "127.0.0.1", "--port", self.port, "--webui-port", self.page)
        until(lambda: self.registered() is not None)
        for _ in range(2):
            self.add_worker()

    @property
    def url(self) -> str:
        return f"spark://127.0.0.1:{self.port}"

    @property
    def gpus(self) -> set[str]:
        """The numbers of the GPUs that the workers claim."""
        return {self._gpus[worker.pid] for worker in self.workers}

    @property
    def environment(self) -> dict[str, str]:
        """Variables of drivers and workers: the package, the helpers of the tests, and loopback."""
        return {
            **os.environ,
            "SPARK_HOME": str(self.home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            # The variable of this process may name another version of PySpark.
            "PYTHONPATH": f"{ROOT / '.venv' / 'house'}:{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}",
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def configuration(self) -> dict[str, str]:
        """The configuration of applications: one core an executor, and quick retries."""
        return {
            "spark.ui.enabled": "false",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.executor.cores": "1",
            # Two applications run at the same time.
            "spark.cores.max": "2",
            "spark.executor.memory": "512m",
            # An attempt that fails costs the start of a Python worker.
            "spark.task.maxFailures": "2",
            "spark.executorEnv.PYTHONPATH": self.environment["PYTHONPATH"],
            "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
        }

    def registered(self) -> int | None:
        """Return how many workers are alive, or None if the master does not answer yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.page}/json/", timeout=5) as answer:
                return len(re.findall(r'"state" *: *"ALIVE"', answer.read().decode()))
        except OSError:
            return None

    def add_worker(self) -> None:
        """Start a worker, and wait until the master knows it."""
        before = self.registered() or 0
        work = self.folder / f"worker-{time.monotonic_ns()}"
        # Two applications of two executors run at the same time. Each needs a free core on each worker, also after one
        # of the workers was killed: else both of its executors are on one host.
        words = ("--cores", 4, "--memory", "2g", "--work-dir", work, "--webui-port", free_port())
        # Spark starts no speculative attempt on the host of the first one, so each worker has an address of its own.
        self._num_started += 1
        script = self.folder / f"gpus-{self._num_started}.sh"
        gpu = str(self._num_started + 4)
        script.write_text(f"""#!/bin/sh\necho '{{"name": "gpu", "addresses": ["{gpu}"]}}'\n""")
        script.chmod(0o755)
        claims = {"amount": "1", "discoveryScript": script}
        options = [f"-Dspark.worker.resource.gpu.{name}={value}" for name, value in claims.items()]
        host = f"127.0.0.{self._num_started}"
        self.workers.append(self._start("worker.Worker", host, *words, self.url, options=options))
        self._gpus[self.workers[-1].pid] = gpu
        until(lambda: (self.registered() or 0) > before)

    def stop(self) -> None:
        for process in (self.master, *self.workers):
            kill_tree(process)

    def _start(self, name: str, host: str, *words: Any, options: Sequence[str] = ()) -> psutil.Process:
        log = (self.folder / f"{name}-{time.monotonic_ns()}.log").open("wb")
        command = [self.home / "bin" / "spark-class", f"{CLASSES}.{name}", "--host", host, *words]
        more = {"SPARK_DAEMON_MEMORY": "256m", "SPARK_WORKER_OPTS": " ".join(["-Dspark.worker.timeout=15", *options])}
        with log:
            return psutil.Popen([*map(str, command)], env={**self.environment, **more}, stdout=log, stderr=log)


def kill_tree(process: psutil.Process) -> None:
    """Kill a process and all below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = process.children(recursive=True)
        for each in (process, *below):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(PATIENCE)


@contextlib.contextmanager
def spark_cluster(folder: Path) -> Iterator[Cluster]:
    """Yield a cluster. Skip the test, with the reason, if Java or pyspark is missing."""
    need_java()
    cluster = None
    try:
        cluster = Cluster(folder)
        yield cluster
    finally:
        if cluster is not None:
            cluster.stop()
