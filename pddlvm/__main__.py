"""`python -m pddlvm` is the program `pddlvm`, for torchrun and where no script is installed."""

from pddlvm.cli.app import main

if __name__ == "__main__":
    main()
