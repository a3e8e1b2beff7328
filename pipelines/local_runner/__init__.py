"""Beam's runner on this machine, with one process or several."""
