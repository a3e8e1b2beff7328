"""What every client of a server needs: how long to wait before a retry, and what a URL must not reveal."""
