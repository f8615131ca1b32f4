"""What follows from several results: variants, seeds, ratios, Pareto fronts, recommendation. No rendering."""
