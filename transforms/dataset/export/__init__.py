"""Exports of an output in the formats that other tools read. An export never overwrites files."""
