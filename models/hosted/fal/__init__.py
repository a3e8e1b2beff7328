"""fal: the annotator, its job queue and its HTTP client."""
