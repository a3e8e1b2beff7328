"""Moondream 2 and 3 on this machine: the network, its checkpoints, and the engine that answers requests."""
