"""u in a reduced basis: bases, the way to u and back, the reduced residual, and cubature."""
