"""TIFF: the full picture of a file with previews, and kinds of pixels that Pillow decodes wrongly."""
