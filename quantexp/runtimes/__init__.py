"""What executes a network, a file a runtime."""
