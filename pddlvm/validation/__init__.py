"""Maps and posteriors against the reference solver on fresh prior draws."""
