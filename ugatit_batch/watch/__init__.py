"""A folder that is watched: files that come into it are translated once they have stopped changing."""
