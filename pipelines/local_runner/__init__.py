"""Beam's runner on this machine, in one process or several."""
