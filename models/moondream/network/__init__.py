"""The network of Moondream 2 and 3, one file for each part, named as in the reference implementation."""
