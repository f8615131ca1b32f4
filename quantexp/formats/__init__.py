"""Networks as files that other programs execute."""
