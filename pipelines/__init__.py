"""Floor 3: the command line. It builds and runs pipelines, and defines no DoFn."""
