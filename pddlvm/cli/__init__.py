"""The command line, `pddlvm`."""
