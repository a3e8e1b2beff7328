"""Read bytes from disks, object stores, HTTP, and files inside other files. Nothing here depends on rows."""
