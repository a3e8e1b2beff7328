"""Columns of manifests that rows keep: their names in the output, and digests of their values."""
