"""Locks that keep two runs from writing to one output."""
