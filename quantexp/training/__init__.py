"""Training, and the cache of trained networks."""
