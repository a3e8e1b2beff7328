"""Annotators that ask a hosted API: fal, Moondream Cloud, and the fallback from a local engine to one of them."""
