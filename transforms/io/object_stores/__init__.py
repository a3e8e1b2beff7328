"""Clients for S3, GCS, Azure and HDFS behind one protocol, ``Store``."""
