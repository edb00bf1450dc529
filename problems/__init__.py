"""Ready problems; each module has `make(...)` functions that return a `pddlvm.Problem`."""
