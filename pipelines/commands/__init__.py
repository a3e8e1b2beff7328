"""The subcommands of ``moondream-beam``, one file each."""
