"""Trajectories in a reduced basis of space and time, and the maps that learn them."""
