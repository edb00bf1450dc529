"""A PDE on finite elements: its terms and boundary values, operators and reference solutions."""
