"""Moondream Cloud: its protocol, single requests and batches."""
