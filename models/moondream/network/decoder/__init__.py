"""The decoder of the network: its blocks, the KV cache, and the parts that only some generations have."""
