"""Complete U-GAT-IT: networks, losses, data, the loop, and importers for published checkpoints."""
