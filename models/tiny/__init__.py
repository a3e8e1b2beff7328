"""The embedded checkpoint: a Moondream of two million weights that knows flat coloured shapes, and how it was made."""
