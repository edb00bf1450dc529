"""The history of a training for TensorBoard; needs the extra `log`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pddlvm.basics.errors import InputError
from pddlvm.runs.folder import Run

__all__ = ["logged"]

Record = Callable[[dict[str, float]], None]


@contextmanager
def logged(run: Run, record: Record) -> Iterator[Record]:
    """`record`, which inside also writes to the folder `tensorboard` of the run.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard needs TensorBoard: pip install 'pddlvm[log]'") from error
    with SummaryWriter(str(run.path / "tensorboard")) as writer:

        def both(row: dict[str, float]) -> None:
            record(row)
            writer.add_scalar(f"elbo/stage {int(row['stage'])}", row["elbo"], int(row["step"]))

        yield both
