"""Vision models of the library transformers, on this machine, as an annotator for captions and queries."""
