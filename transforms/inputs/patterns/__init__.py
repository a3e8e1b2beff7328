"""What a pattern of the input stands for."""
