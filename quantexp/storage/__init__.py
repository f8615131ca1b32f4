"""A network on disk as state and recipe, rebuilt, and what it predicts on raw inputs."""
