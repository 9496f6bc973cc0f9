"""Turning a bundle into a Translator."""
