"""How far a run is, and when to stop it."""
