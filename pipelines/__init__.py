"""Floor 3, the command line: build, parse, run. No DoFn here."""
