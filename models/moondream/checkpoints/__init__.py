"""Where weights come from, and how they are recognized and loaded."""
