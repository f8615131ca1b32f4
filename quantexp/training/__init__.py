"""Training, and the cache of what was trained."""
