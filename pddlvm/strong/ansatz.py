"""How u is written so that it has its values on hard faces, and its derivatives.

    u(x; z) = lift(x; z) + F(s) n(s),    x = X(s; z),   F = prod of (1 +- s_i) over the hard faces

On hard faces u equals the lift whatever n is; where the slope is held too, F has the factor twice.
Along a coordinate that is `odd`, n is even in s and F odd, so that u is odd where the lift is.
Along one that is `periodic` n is a function of cos(pi s) and sin(pi s). Of several unknowns each
has its lift and its F.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.strong.domain import Box, Face, Stretch
from pddlvm.strong.jets import Index, Jet, product
from pddlvm.strong.placed import Placed
from pddlvm.strong.pointwise import FieldValues, PointFunction
from pddlvm.strong.series import CHEBYSHEV, FOURIER

__all__ = ["Ansatz"]


class Ansatz:
    """Geometry, lift and factor of a problem in strong form.

    Args:
        box: the domain.
        fields: values of all fields at points.
        lift_function: of coordinates and fields.
        hard: for each unknown the faces on which it equals the lift.
        odd: coordinates in which u is odd.
        periodic: coordinates whose box is a period of u.
        stretch: coordinate -> map from its reference coordinate.
        indices: derivatives that are needed.
    """

    def __init__(
        self,
        box: Box,
        fields: FieldValues,
        lift_function: PointFunction,
        *,
        hard: tuple[tuple[Face, ...], ...],
        odd: tuple[str, ...],
        periodic: tuple[str, ...],
        stretch: Mapping[str, Stretch],
        indices: tuple[Index, ...],
    ) -> None:
        self.box = box
        self.fields = fields
        self.lift_function = lift_function
        self.unknowns = lift_function.unknowns
        self.hard = hard
        self.odd = odd
        self.periodic = periodic
        self.series = tuple(FOURIER if c in periodic else CHEBYSHEV for c in box.names)
        self.stretch = dict(stretch)
        self.indices = indices

    def is_hard(self, points: Tensor) -> Tensor:
        """Are the points (n_points, k) on hard faces of each unknown? (n_unknowns n_points,)."""
        found = torch.zeros(len(self.hard), len(points), dtype=torch.bool, device=points.device)
        for own, faces in zip(found, self.hard, strict=True):
            for face in faces:
                low, high = self.box.intervals[face.coordinate]
                x = points[:, self.box.names.index(face.coordinate)]
                own |= (x - (high if face.is_end else low)).abs() <= 1e-6 * (high - low)
        return found.flatten()

    def values(self, z: Tensor, x: Sequence[Tensor]) -> dict[str, Tensor]:
        """Coordinates and fields by name, for z (n_samples, d) at x."""
        at = dict(zip(self.box.names, x, strict=True))
        return at | self.fields(z, at)

    def place(self, s: Sequence[Tensor], z: Tensor) -> Placed:
        """Where s is, (n_points,) or (n_samples, n_points) for each coordinate."""
        values = self.fields(z, {})
        placed = [
            self.stretch[c].place(at, self.box.intervals[c], values)
            for c, at in zip(self.box.names, s, strict=True)
        ]
        return Placed(tuple(own[0] for own in placed), tuple(own[1:] for own in placed))

    def locate(self, x: Sequence[Tensor], z: Tensor) -> list[Tensor]:
        """s of x, (n_points,) or (n_samples, n_points) each."""
        values = self.fields(z, {})
        return [
            self.stretch[c].locate(at, self.box.intervals[c], values).clamp(-1, 1)
            for c, at in zip(self.box.names, x, strict=True)
        ]

    def features(self, s: Sequence[Tensor]) -> Jet:
        """What the trunk reads at s, and its derivatives along s, (n_points, n_features) each."""
        zero = torch.zeros_like(s[0])
        features = [
            (i, derivatives)
            for i, (c, at) in enumerate(zip(self.box.names, s, strict=True))
            for derivatives in self._features_of(c, at)
        ]
        found = {}
        for index in self.indices:
            columns = [
                derivatives[len(index)] if index.count(i) == len(index) else zero
                for i, derivatives in features
            ]
            found[index] = torch.stack(columns, dim=-1)
        return found

    @property
    def n_features(self) -> int:
        """How many the trunk reads."""
        return len(self.box.names) + len(self.periodic)

    def _features_of(self, c: str, s: Tensor) -> list[tuple[Tensor, ...]]:
        """Those of a coordinate with their first derivatives, up to the fourth."""
        pi, zero, one = math.pi, torch.zeros_like(s), torch.ones_like(s)
        if c in self.periodic:
            cosine, sine = torch.cos(pi * s), torch.sin(pi * s)
            return [
                (cosine, -pi * sine, -(pi**2) * cosine, pi**3 * sine, pi**4 * cosine),
                (sine, pi * cosine, -(pi**2) * sine, -(pi**3) * cosine, pi**4 * sine),
            ]
        if c in self.odd:
            return [(2 * s * s - 1, 4 * s, 4 * one, zero, zero)]
        return [(s, one, zero, zero, zero)]

    def factor(self, s: Sequence[Tensor]) -> Jet:
        """F, zero on the hard faces, and its derivatives along s, (n_points,) each, or stacks."""
        jets = [self._factor(faces, s) for faces in self.hard]
        return {index: self.unknowns.of_parts([jet[index] for jet in jets]) for index in jets[0]}

    def _factor(self, hard: tuple[Face, ...], s: Sequence[Tensor]) -> Jet:
        zero = torch.zeros_like(s[0])
        found: Jet = {index: zero for index in self.indices} | {(): torch.ones_like(s[0])}
        held = [f for f in hard for _ in range(2 if f.with_slope else 1)]
        signs = [(f.coordinate, 1.0, -1.0 if f.is_end else 1.0) for f in held]
        for c, constant, sign in [*signs, *((c, 0.0, 1.0) for c in self.odd)]:
            i = self.box.names.index(c)
            linear = dict.fromkeys(self.indices, zero) | {(): constant + sign * s[i]}
            if (i,) in linear:
                linear[(i,)] = sign * torch.ones_like(zero)
            found = product(linear, found)
        return found

    def lift(self, z: Tensor, x: Sequence[Tensor]) -> Tensor:
        """The lift at x, broadcastable to vectors (n_samples, n_unknowns n_points)."""
        values = self.fields(z, {}) | dict(zip(self.box.names, x, strict=True))
        found = self.lift_function({}, values).to(x[0])
        if self.unknowns.n == 1:
            return found
        n = max(c.shape[-1] for c in x)
        parts = [part.expand(*part.shape[:-1], n) for part in self.unknowns.parts(found)]
        return torch.cat(torch.atleast_2d(*parts), dim=-1)

    def lift_jet(self, z: Tensor, x: Sequence[Tensor]) -> Jet:
        """The lift and its derivatives along x, each broadcastable to (n_samples, n_points)."""
        constants = self.fields(z, {})

        def lift(*at: Tensor) -> Tensor:
            values = constants | dict(zip(self.box.names, at, strict=True))
            u = self.lift_function({}, values).to(at[0])
            shape = torch.broadcast_shapes(u.shape, *(c.shape for c in at))
            return u.expand(shape)

        return self.unknowns.partials(lift, x, self.indices)

    def assemble(
        self, n: Mapping[Index, Tensor], s: Sequence[Tensor], z: Tensor
    ) -> tuple[Jet, dict[str, Tensor]]:
        """Jet of u along x and the values there, from the jet of F n along s.

        Args:
            n: jet of F n, (n_samples, n_points) each, or stacks.
            s: reference coordinates, (n_points,) each.
            z: (n_samples, d).
        """
        placed = self.place(s, z)
        lift = self.lift_jet(z, placed.x)
        jet = {i: v + lift[i] for i, v in placed.chain(n).items()}
        return jet, self.values(z, placed.x)

    def weighted(self, phi: Mapping[Index, Tensor], s: Sequence[Tensor]) -> Jet:
        """Jet of F phi along s, from that of phi, ([n_unknowns,] n_points, m) each."""
        # The factor of several unknowns has an axis of samples, of length 1.
        factor = {i: f if self.unknowns.n == 1 else f[:, 0] for i, f in self.factor(s).items()}
        return product({i: f[..., None] for i, f in factor.items()}, phi)

    def check_periodic(self, s: Sequence[Tensor], z: Tensor, name: str) -> None:
        """Raise a ProblemError where the problem `name` cannot be periodic."""
        for c in self.periodic:
            i = self.box.names.index(c)
            ends = [
                [torch.full_like(at, end) if j == i else at for j, at in enumerate(s)]
                for end in (-1, 1)
            ]
            first, last = (self.lift_jet(z, self.place(at, z).x) for at in ends)
            if not all(torch.allclose(first[k], last[k], atol=1e-8) for k in self.indices):
                raise ProblemError(
                    f"problem {name!r} is not periodic in {c}: the lift or a derivative of it "
                    "differs between the start and the end"
                )

    def check_odd(self, s: Sequence[Tensor], z: Tensor, name: str) -> None:
        """Raise a ProblemError where the problem `name` cannot be odd."""
        for c in self.odd:
            i = self.box.names.index(c)
            mirrored = [-at if j == i else at for j, at in enumerate(s)]
            x, back = self.place(s, z).x, self.place(mirrored, z).x
            u, v = self.lift_jet(z, x)[()], self.lift_jet(z, back)[()]
            if not (torch.allclose(x[i], -back[i]) and torch.allclose(u, -v)):
                raise ProblemError(
                    f"problem {name!r} is not odd in {c}: its interval must be symmetric "
                    "about 0, and the lift odd"
                )
