"""Plan a run: find what is left to do, and group it into shards."""
