"""The types that flow through the pipeline, and the errors that end a run."""
