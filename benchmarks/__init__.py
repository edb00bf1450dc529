"""Benchmarks: accuracy against training time, speed-ups, memory. Run `make bench`."""
