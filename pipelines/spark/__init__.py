"""PySpark."""
