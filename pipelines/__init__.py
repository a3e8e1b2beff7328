"""Floor 3: the command line. It builds and runs pipelines, and defines no DoFn."""

# The floor below must come first: it installs a filter for a warning of Beam.
from .. import transforms  # noqa: F401
