"""The folder of a small run on a line, with what a training leaves there that commands read."""

from pathlib import Path

import pddlvm
from problems import poisson


def line_run(folder: Path) -> Path:
    """The same folder, which is made."""
    folder.mkdir()
    (folder / "config.toml").write_text(
        'problem = "poisson-1d"\nmax_steps = 30\n[settings]\nn = 8\n'
    )
    model = pddlvm.LatentVariableModel(poisson.make_1d(8))
    pddlvm.train(model, max_steps=30)
    model.save(folder / "model.pt")
    return folder
