"""A program that annotates pictures on a cluster, as a process of its own: ``driver.py JSON``.

JSON has the ``configuration`` of Spark, the ``master``, the fields of ``Held`` and the arguments of
``annotate_on_spark``. The record of the run is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from support.spark.held import Held

from moondream_beam import Caption
from moondream_beam.pipelines.spark import annotate_on_spark


def main(order: dict[str, Any]) -> None:
    """Run the job of an order."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(order["master"])
    for name, value in order["configuration"].items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    annotator, (inputs, output) = Held(**order["annotator"]), order["paths"]
    record = annotate_on_spark(spark, inputs, [Caption()], annotator, output, **order["options"])
    print(json.dumps(record))
    spark.stop()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
