"""Pictures: reading, the way into a network and back, writing, and attention sidecars.

Knows nothing of models or of torch.
"""
