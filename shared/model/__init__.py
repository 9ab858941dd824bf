"""The ranking transformer: configuration, layers, the two passes, and its checkpoint."""
