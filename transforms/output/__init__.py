"""The folder that a run writes: file names, lock, commit, files and record."""
