"""Bytes from anywhere: disks, object stores, HTTP, and files inside other files. This room knows no row."""
