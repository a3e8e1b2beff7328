"""Decoding of one step: hidden states to tokens, coordinates and sizes of many answers."""
