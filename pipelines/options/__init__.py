"""Command-line options and their checks, grouped by what they set."""
