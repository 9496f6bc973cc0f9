"""Translate photographs in bulk with U-GAT-IT models."""

__version__ = "0.1.0"
