"""The page that ``report`` writes: template, style, script, and the code that fills them."""
