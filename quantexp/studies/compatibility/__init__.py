"""The study `compatibility`: which methods, flows, precisions and engines work for a network."""
