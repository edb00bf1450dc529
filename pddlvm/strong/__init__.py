"""A PDE in a box, by its residual at points: coordinates, jets, ansatz and Newton on nodes."""
