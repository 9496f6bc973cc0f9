"""Films in and out, by PyAV. Knows nothing of models."""
