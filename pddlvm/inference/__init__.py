"""Posteriors of parameters and solutions from noisy, partial data."""
