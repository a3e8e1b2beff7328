"""Jobs on Beam's portable runners: Prism, and job services that are started elsewhere."""
