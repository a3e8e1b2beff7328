"""Patterns and manifests to image references."""
