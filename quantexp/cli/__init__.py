"""The command line: Hydra, arguments, exit status. Composing, planning a sweep, help."""
