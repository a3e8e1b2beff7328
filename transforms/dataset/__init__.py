"""A finished output, opened for reading."""
