"""The network of Moondream 2, one file for each part, named as in the reference implementation."""
