"""An output in the shapes that others read. Nothing that is there already is overwritten."""
