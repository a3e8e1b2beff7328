"""Push an output to the Hugging Face hub: its card, its files with or without pictures, and the upload."""
