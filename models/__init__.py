"""Floor 1: what is asked and answered. PyTorch, NumPy and Pillow; no Beam, no pyarrow."""
