"""One run with its record, a sweep, a study; the identity of a run is computed here."""
