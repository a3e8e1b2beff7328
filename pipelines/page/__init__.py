"""The page that ``report`` writes: its template, its style, its script, and what fills them."""
