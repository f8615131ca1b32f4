"""The machine and the process: errors, version, environment, cache folder, locks, signals, terminal."""
