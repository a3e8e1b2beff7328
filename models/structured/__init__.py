"""Answers to queries as JSON that a schema describes: the schemas, and the check of the answers."""
