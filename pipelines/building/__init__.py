"""What the options of a command stand for: inputs, annotator, job, and the checks that read files or ask a hub."""
