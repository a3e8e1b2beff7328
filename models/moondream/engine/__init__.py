"""Continuous batching: requests in, answers out, slots kept full."""
