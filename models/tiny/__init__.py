"""The embedded checkpoint: a Moondream of two million weights for pictures of flat coloured shapes."""
