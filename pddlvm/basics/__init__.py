"""Errors, checks of arguments, seeds, and what is kept or written safely; no mathematics."""
