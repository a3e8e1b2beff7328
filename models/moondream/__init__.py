"""The Moondream 2 network and its engine, one file for each part, named as in the reference implementation."""
