"""Training: loops, optimisers and their state, checkpoints, and the verdict at the end."""
