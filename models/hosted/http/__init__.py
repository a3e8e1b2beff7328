"""The HTTP layer of hosted APIs: errors, transport, and images to send."""
