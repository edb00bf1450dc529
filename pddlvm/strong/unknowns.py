"""The unknowns u, v, ... of a problem, and how their values at n points are laid out.

    vectors   (n_samples, n_unknowns n)       one unknown after the other: for users, for matrices
    stacks    (n_unknowns, n_samples, n)      coordinates and fields broadcast against them

One unknown alone has no axis of its own: its vectors are its stacks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.checks import check_only_field
from pddlvm.basics.errors import ProblemError
from pddlvm.strong.jets import Index, Jet, partials

__all__ = ["Unknowns"]


@dataclass(frozen=True)
class Unknowns:
    """Names of the unknowns, in the order of their values.

    Raises:
        ProblemError: names that functions could not tell apart.
    """

    names: tuple[str, ...] = ("u",)

    def __post_init__(self) -> None:
        for name in self.names:
            if not isinstance(name, str) or not name.isidentifier() or "_" in name:
                raise ProblemError(
                    f"an unknown cannot be named {name!r}: functions read it and its derivatives "
                    'as arguments, u and u_x; take names without "_", as unknowns=("u", "v")'
                )
        if not self.names or len(set(self.names)) < len(self.names):
            raise ProblemError(f"unknowns must be one or more different names, got {self.names}")

    @property
    def n(self) -> int:
        """How many they are."""
        return len(self.names)

    def number(self, name: str) -> int:
        """Place of a name among them, or a ProblemError."""
        if self.names == ("u",):
            check_only_field(name)
        if name not in self.names:
            raise ProblemError(f"there is no unknown {name!r}; there are {list(self.names)}")
        return self.names.index(name)

    def slices(self, n: int) -> dict[str, slice]:
        """Where the n values of each are in a vector."""
        return {name: slice(a * n, (a + 1) * n) for a, name in enumerate(self.names)}

    def stack(self, vectors: Tensor) -> Tensor:
        """(n_samples, n_unknowns n) -> (n_unknowns, n_samples, n)."""
        return vectors if self.n == 1 else vectors.unflatten(-1, (self.n, -1)).movedim(-2, 0)

    def join(self, stacks: Tensor) -> Tensor:
        """(n_unknowns, n_samples, n) -> (n_samples, n_unknowns n)."""
        return stacks if self.n == 1 else stacks.movedim(0, -2).flatten(-2)

    def parts(self, stacks: Tensor) -> list[Tensor]:
        """The values of each unknown, (n_samples, n), or those that are the same for all."""
        return list(stacks) if self.n > 1 and stacks.ndim > 2 else [stacks] * self.n

    def of_parts(self, parts: Sequence[Tensor]) -> Tensor:
        """The stack of values (n_samples, n) of each unknown, which broadcast."""
        if self.n == len(parts) == 1:
            return parts[0]
        found = torch.stack(torch.broadcast_tensors(*parts))
        return found.reshape(len(parts), *[1] * (3 - found.ndim), *found.shape[1:])

    def stacked(self, result: Tensor | tuple[Tensor | float, ...]) -> Tensor:
        """What a function returned, as the stack of a tuple that has a value for each."""
        if self.n == 1 or not isinstance(result, tuple):
            return result  # type: ignore[return-value]  # a tuple is refused where it is checked
        return self.of_parts([torch.as_tensor(part) for part in result])

    def beside_stacks(self, values: Tensor) -> Tensor:
        """A number for each unknown, (n_unknowns,), or for the only one (), against stacks."""
        return values if self.n == 1 else values[:, None, None]

    def beside_vectors(self, values: Tensor, n: int) -> Tensor:
        """The same against vectors of n values of each unknown."""
        return values if self.n == 1 else values.repeat_interleave(n)

    def partials(
        self, f: Callable[..., Tensor], x: Sequence[Tensor], indices: Iterable[Index]
    ) -> Jet:
        """Derivatives of an elementwise function of the coordinates x that gives stacks."""
        indices = tuple(indices)

        def one(a: int) -> Jet:
            return partials(lambda *at: self.parts(f(*at))[a], x, indices)

        # Each by itself: a gradient of the sum of all values would mix them.
        jets = [one(a) for a in range(self.n)]
        return {index: self.of_parts([jet[index] for jet in jets]) for index in indices}
