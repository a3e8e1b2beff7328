"""Checkpoints: where weights come from, how their release is identified, and how they are loaded."""
