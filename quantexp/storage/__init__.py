"""Networks on disk as state and recipe: how to write them, rebuild them, and predict on raw inputs."""
