"""The data sets: read from files, split three ways, held as tensors in memory."""
