"""Floor 2, Beam: images in, rows out. No argument parsing here."""
