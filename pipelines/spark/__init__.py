"""PySpark: a resumable job on a cluster, ``annotate_on_spark``, and a transform of DataFrames, ``annotate``."""

from .dataframe import annotate
from .job import annotate_on_spark

__all__ = ["annotate", "annotate_on_spark"]
