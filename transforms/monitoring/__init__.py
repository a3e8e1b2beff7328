"""Measure how far a run is, and stop a run with too many failures."""
