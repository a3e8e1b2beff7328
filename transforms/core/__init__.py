"""The elements and rows of the pipeline, and the errors that end a run."""
