"""Mixed precision under a bound on accuracy."""
