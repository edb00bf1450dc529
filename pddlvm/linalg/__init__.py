"""Matrices: sparse operators and factorisations; nothing of a PDE."""
