"""Studies: what is done with an experiment besides a single run. Each says what it found; the edge records it."""
