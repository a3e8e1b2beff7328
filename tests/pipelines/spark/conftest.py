"""Fixtures: a standalone cluster for all tests of this folder, a session on it, and pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.spark.cluster import Cluster, spark_cluster, until

from moondream_beam.models.tiny.scenes import draw


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a cluster of a master and two workers."""
    with spark_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def spark(cluster: Cluster) -> Iterator[Any]:
    """Start an application on the cluster."""
    from pyspark.sql import SparkSession

    os.environ.update({name: cluster.environment[name] for name in ("SPARK_LOCAL_IP", "PYSPARK_PYTHON")})
    warehouse = str(cluster.folder / "warehouse")
    builder = SparkSession.builder.master(cluster.url).appName("drills").config("spark.sql.warehouse.dir", warehouse)
    for name, value in cluster.configuration.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    # Its connections report at INFO that they close, when the tests' output is closed already.
    logging.getLogger("py4j").setLevel(logging.WARNING)
    # The first of two executors to register would get all tasks of a short job. The driver counts as an executor.
    tracker = session.sparkContext._jsc.sc().statusTracker()
    until(lambda: len(tracker.getExecutorInfos()) == 3)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 200 small pictures, all different. Two files are no pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(200):
        draw(number).image.resize((48, 36)).save(folder / f"{number:03}.png")
    (folder / "003.png").write_bytes(b"no picture")
    (folder / "100.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def many_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 2,000 small pictures of different sizes. Two files are no pictures."""
    folder = tmp_path_factory.mktemp("many pictures")
    for number in range(2000):
        Image.new("RGB", (8 + number % 50, 8 + number // 50)).save(folder / f"{number:04}.png")
    (folder / "0003.png").write_bytes(b"no picture")
    (folder / "1000.png").write_bytes(b"")
    return folder
