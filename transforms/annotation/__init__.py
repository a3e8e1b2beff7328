"""The public transforms: references in, annotations out."""
