"""Errors that the package raises: each says what was wrong, what was expected and what to try."""


class InputError(ValueError):
    """An argument of a public function is not usable: wrong shape, not finite, out of range."""


class SupportError(InputError):
    """Parameters lie outside the support of their prior."""


class MeshError(InputError):
    """A mesh cannot be read, or lacks a boundary or subdomain that was asked for."""


class ProblemError(InputError):
    """A problem is not well posed: no Dirichlet boundary, unknown field, wrong physics."""


class RunFileError(InputError):
    """A file is not a saved model, or was saved from another problem."""


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance; the message says for which sample."""


class StaleError(RuntimeError):
    """A model has changed since it gave the answer of which it would now compute a part."""


class WorkerError(RuntimeError):
    """A process that computed a part of a result has died; the message says at which part."""


class NonFiniteError(RuntimeError):
    """Training met a value that is not finite; the model keeps its last good state."""


class ResonanceWarning(UserWarning):
    """The prior of a wave problem crosses a resonance, where there is no bounded solution."""


class UncalibratedWarning(UserWarning):
    """A model answers whose error bars nothing has fitted to errors: it is hardly trained."""
