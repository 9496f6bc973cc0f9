"""Stills and animations: reading, fitting to a network's size and back, writing. Knows nothing of models."""
