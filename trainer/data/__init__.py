"""From clips to batches: what a model is fed, and in which order."""
