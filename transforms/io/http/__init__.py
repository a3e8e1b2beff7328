"""The HTTP client: it limits size, time and redirects, and connects to public addresses only."""
