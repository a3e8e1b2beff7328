"""An image reference to pixels."""
