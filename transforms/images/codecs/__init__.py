"""Image formats, or kinds of them, whose pixels Pillow decodes wrongly or not at all."""
