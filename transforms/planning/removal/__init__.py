"""Remove rows that a run replaces: of changed pictures, of corrected inputs, and of requests that are asked again."""
