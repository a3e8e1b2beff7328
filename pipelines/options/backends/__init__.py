"""Options for what answers in place of the local engine: hosted APIs and vision servers."""
