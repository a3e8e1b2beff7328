"""The embedded checkpoint: a Moondream of two million weights for pictures of flat coloured shapes."""

# What people must know before they trust an answer of this model.
NOTE = "tiny knows drawings of flat coloured shapes only: its answers about photographs mean nothing"
