"""What is left to do, cut into shards."""
