"""Running: one run with its record, a study at work, a sweep. The identity of a run is computed here."""
