"""The HTTP client: limits on size, time, redirects and addresses."""
