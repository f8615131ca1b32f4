"""Study: mixed precision under a bound on accuracy, agreement or output SQNR."""
