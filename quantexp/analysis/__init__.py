"""What follows from several results: variants, seeds, ratios, Pareto fronts, recommendation. It renders nothing."""
