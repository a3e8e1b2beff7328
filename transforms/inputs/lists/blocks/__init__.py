"""Rows of manifests in blocks, where most of them need no parser of ours."""
