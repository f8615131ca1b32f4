"""Studies: generators that yield experiments, receive their reports and return findings. A folder per study."""
