"""The columns of an export as JSON: their values, their types for readers, and the fields of structured answers."""
