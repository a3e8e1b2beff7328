"""A session of Spark in a Java process of this machine, for tests that read what the package wrote."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def need_java() -> None:
    """Skip the test, with the reason, if pyspark is missing, or Java is missing or too old."""
    pytest.importorskip("pyspark", reason="pyspark is missing: pip install 'moondream-beam[spark]'")
    found = shutil.which("java") and subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    if not found or int(re.findall(r'version "(\d+)', found)[0]) < 17:
        pytest.skip("Spark 4 needs Java 17 or later: install openjdk-17-jre-headless")


@contextlib.contextmanager
def spark_session(warehouse: Path) -> Iterator[Any]:
    """Yield a session of Spark. Skip the test, with the reason, if Java is missing or too old."""
    need_java()
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    for option in ("bindAddress", "host"):
        builder = builder.config(f"spark.driver.{option}", "127.0.0.1")
    session = builder.config("spark.sql.warehouse.dir", str(warehouse)).getOrCreate()
    yield session
    session.stop()
