"""The flag that a signal sets in a process: no more requests are made, and what is answered is kept."""

from __future__ import annotations

import threading

# Set once, by the first SIGINT or SIGTERM, and never cleared outside of tests.
INTERRUPTED = threading.Event()
