"""What is measured of a solution: observations and noise."""
