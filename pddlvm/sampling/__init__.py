"""Chains, Gaussians and weights for any log density of parameters; nothing of a PDE."""
