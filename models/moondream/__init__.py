"""Moondream 2 on this machine: the network, its checkpoints, and the engine that answers requests."""
