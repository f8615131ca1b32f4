"""What a run found out, and how it is shown."""
