"""Derivatives from a Linearization: gradient, multipliers, Jacobian, jvp, vjp. Every one certified.

Takes a Linearization and names of outputs and parameters, gives arrays by name. All right-hand sides of one
call go through the factors together, in slices of `SLICE` numbers so that memory stays bounded.

    dJ/dp = −λᵀ R_p with R_uᵀ λ = J_uᵀ          (an output is a state or a definition, so J_p = 0)
    u̇ = −R_u⁻¹ R_p ṗ
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.accuracy import gradient_bound, multiplier_bound, product_estimate, spread
from lagrad.assembly.forward import EPS, NOISE
from lagrad.assembly.kinks import followed, kinks
from lagrad.assembly.second import hessian_times
from lagrad.certificate import (
    BACKWARD_LIMIT,
    RCOND_LIMIT,
    Certificate,
    certify,
    check_is_solution,
    check_linear,
    check_regular,
)
from lagrad.coupling import coupled
from lagrad.determined import undetermined
from lagrad.domain import culprit
from lagrad.errors import CertificateError, DeclarationError, EvaluationError, KinkError, ShapeError, listed
from lagrad.layout import Layout, by_name, numbers, several
from lagrad.linalg.blocks import Residuals
from lagrad.linearize import Linearization
from lagrad.structure.colouring import places, star_colouring

if TYPE_CHECKING:
    from lagrad.assembly.flat import FlatPoint

Floats = NDArray[np.float64]

# Of the size of a state: far enough for its high powers not to vanish, too near for most conditions to change.
MOVED = 1e-4
LITTLE = (
    1e-3  # share of their sizes by which states are moved to see whether a Jacobian vanishes where they are
)
GROWN = 100.0  # by which factor it then grows
STRICT_LIMIT = 1e-6  # relative error that strict=True allows
FEW_COLUMNS = 4  # parameters up to which a Hessian is computed column by column
PANEL = 8  # right-hand sides that go through a large block together
SLICE = 1 << 22  # numbers in one slice of right-hand sides: 32 MB
AS_WRITTEN = {"powc": "x**c"}  # primitives that nobody writes by name


class Derivatives(dict[Any, Any]):
    """A dict of derivative arrays by name, with the `certificate` of the solve that they come from.

    Whatever the certificate could refuse was checked before this was made; its figures are put together when
    read.
    """

    def __init__(self, items: Any, certificate: Callable[[], Certificate]) -> None:
        super().__init__(items)
        self._certificate = certificate

    @cached_property
    def certificate(self) -> Certificate:
        """Residuals, backward error and condition of the solve behind these derivatives."""
        return self._certificate()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (dict(self), self.certificate)


def _restored(items: dict[Any, Any], certificate: Certificate) -> Derivatives:
    return Derivatives(items, lambda: certificate)


def kinked(at: Linearization, moves: NDArray[np.bool_] | None = None) -> list[tuple[int, str]]:
    """(row, primitive) wherever a term sits on a kink, as a function of the entries of v that move (m+n,)."""
    return kinks(at.layout.machine, at.v, partial(spread, at), moves)


def kink_names(at: Linearization) -> list[str]:
    """Names of the constraints with a term on a kink, each once."""
    return [at.layout.row_name(row) for row in sorted({row for row, _ in kinked(at)})]


def undefined_value(layout: Layout, position: int, v: Floats) -> EvaluationError:
    """The error of an explicit state that is not finite in v (m+n,)."""
    value = float(v[layout.m + position])
    cause = culprit(layout, v, position)
    block = int(np.searchsorted(layout.ptr, position, side="right")) - 1
    return EvaluationError(
        block,
        *layout.block_names(block),
        f"{layout.state_name(position)} = {value}: its definition leaves the domain of a function, or overflows, "
        f"at the values before it{f': {cause}' if cause else ''}.",
        "Check the parameters, and the arguments of log, sqrt, powers and divisions in it.",
    )


def undefined_partial(layout: Layout, row: int, slot: int, value: float, v: Floats) -> EvaluationError:
    """The error of a partial that is not finite at v (m+n,); `slot`: its place among all partials."""
    cause = culprit(layout, v, row)
    rows, first = layout.machine.rows, layout.machine.nnz_u
    if slot < first:
        by = layout.state_name(int(rows.a_col[slot]))
    else:
        by = layout.parameters.scalar_name(int(rows.b_col[slot - first]))
    block = int(np.searchsorted(layout.ptr, row, side="right")) - 1
    return EvaluationError(
        block,
        *layout.block_names(block),
        f"the derivative of constraint {layout.row_name(row)} by {by} is {value:g} there"
        f"{f': {cause}' if cause else ''}.",
        "The point is at the edge of a function's domain, as sqrt is at 0: no derivative exists.",
    )


class Differentiator:
    """The derivatives at one solved point. `multiple`: blocks at a multiple root (n_blocks,).

    `flat`: the point as flat code, where all rows are explicit. One reverse sweep then gives multipliers and gradient
    with nothing linearized: R is what rounding makes of u - f, every pivot is 1, and a multiplier is one sum of
    products. What a certificate says of them is computed from the linearization, when it is read.
    """

    def __init__(
        self,
        layout: Layout,
        at: Callable[[], Linearization],
        multiple: NDArray[np.bool_],
        solved: bool,
        flat: FlatPoint | None = None,
    ) -> None:
        self.layout = layout
        self._linearize = at
        self._found_multiple = multiple
        self.solved = solved
        self.flat = flat

    @cached_property
    def at(self) -> Linearization:
        """The partials at the point, factored."""
        return self._linearize()

    @cached_property
    def multiple(self) -> NDArray[np.bool_]:
        """(n_blocks,) blocks whose Jacobian rounding decides: at a multiple root, or not determined."""
        return self._found_multiple | undetermined(self.at)

    # -- checks ---------------------------------------------------------------------------------------------
    def _check_point(self, at_any_point: bool) -> None:
        if not at_any_point and not self._at_solution:
            check_is_solution(self.layout, self.at.residual, self.at.magnitude)

    @cached_property
    def _at_solution(self) -> bool:
        check_is_solution(self.layout, self.at.residual, self.at.magnitude)
        return True

    def _last_digits(self, block: int) -> bool:
        """Whether rounding of the constraints leaves open no more than rounding of the states of a block.

        At a multiple root it leaves open far more, half of the digits at a double one; or the Jacobian is far smaller
        there than a little away, as of (y - 1)**9. Where neither is so, a function changes faster than the states
        resolve: sin(y) at y = 1e16.
        """
        at, layout = self.at, self.layout
        rows = slice(int(layout.ptr[block]), int(layout.ptr[block + 1]))
        open_ = np.zeros(layout.n)
        open_[rows] = NOISE * EPS * at.magnitude[rows]
        with np.errstate(all="ignore"):
            left = np.abs(at.factors.solve(open_)[rows])
            if not (left <= 16.0 * NOISE * EPS * np.abs(at.v[layout.m :][rows])).all():
                return False
            v = at.v.copy()
            v[layout.m :][rows] *= 1.0 + LITTLE
            away = layout.machine.jacobian(v)[2]
        ptr = layout.machine.rows.a_ptr
        first, last = int(ptr[rows.start]), int(ptr[rows.stop])
        return bool(np.abs(away[first:last]).max() <= GROWN * np.abs(at.data[first:last]).max())

    @cached_property
    def _doubtful(self) -> bool:
        """Whether any block at all could be refused; if none, no call asks which blocks it concerns."""
        at = self.at
        return bool(
            at.undefined.rows.size
            or at.undefined.by_rows.size
            or at.factors.status.any()
            or self.multiple.any()
            or not at.conditioned(RCOND_LIMIT).all()
        )

    def _undefined(self, k: int) -> EvaluationError:
        """The error of the k-th undefined row."""
        layout, undefined = self.layout, self.at.undefined
        row, slot = int(undefined.rows[k]), int(undefined.slots[k])
        if slot < 0:
            return undefined_value(layout, row, self.at.v)
        return undefined_partial(layout, row, slot, float(undefined.partials[k]), self.at.v)

    @cached_property
    def _active(self) -> NDArray[np.bool_]:
        return self._carrying(parameters=False)

    @cached_property
    def _active_twice(self) -> NDArray[np.bool_]:
        """Those that carry a second derivative: q · d has one by q and d, also where q is 0."""
        return self._carrying(parameters=True)

    def _carrying(self, parameters: bool) -> NDArray[np.bool_]:
        """Which entries of R_u (nnz_u,) carry a derivative; that of a branch that `where` did not take does not.

        An entry that is zero where what it multiplies does not exist may be one side of 0 · ∞, as in d · d with d = √x
        at 0, whose derivative is 1: zero at the point is not enough. One that stays zero when every state computed
        from what does not exist is moved is no dependency. `parameters`: these are moved too.
        """
        at, layout = self.at, self.layout
        nnz = layout.machine.nnz_u
        active = at.data[:nnz] != 0.0
        low = (at.factors.status != 0) | self.multiple | ~at.conditioned(RCOND_LIMIT)
        doubtful = np.repeat(low, np.diff(layout.ptr))
        doubtful[at.undefined.rows] = doubtful[at.undefined.by_rows] = True
        moved = layout.m + np.flatnonzero(layout.used_by(np.flatnonzero(doubtful)))
        if parameters:
            moved = np.append(np.arange(layout.m), moved)
        v, sizes = at.v.copy(), np.append(np.ones(layout.m), layout.scale)[moved]
        share = MOVED * (1.0 + (moved * 0.6180339887498949) % 1.0)  # no two alike
        there = np.where(np.isfinite(v[moved]), v[moved], 1.0)
        v[moved] = there + share * np.maximum(np.abs(there), sizes)
        with np.errstate(all="ignore"):
            return np.asarray(active | (layout.machine.jacobian(v)[2][:nnz] != 0.0))

    def _adjoint(
        self, seeds: Floats, by: NDArray[Any] | None = None
    ) -> tuple[Floats, Callable[[], Certificate]]:
        """λ for seeds (n,) or (n, k), checked; with its certificate.

        `by`: positions of the parameters that derivatives are taken by, all by default.
        """
        lam, info = self.at.adjoint(seeds)
        return lam, self._checked(lam, info, "adjoint", seeds, by=by)

    def _tangent(
        self, direction: Floats, asked: NDArray[Any] | None = None, twice: bool = False
    ) -> tuple[Floats, Callable[[], Certificate]]:
        """x with R_u x = −R_p ṗ, for directions ṗ (m,) or (m, k), checked; with its certificate.

        `asked`: positions of the states that matter, all by default; only they and what they are computed from
        are checked. `twice`: x goes into second derivatives.
        """
        rhs = self.at.minus_by_parameters(direction)
        x, info = self.at.tangent(rhs)
        moving = direction != 0.0
        moved = np.flatnonzero(moving if direction.ndim == 1 else moving.any(axis=1))
        return x, self._checked(x, info, "tangent", rhs, asked, twice, moved)

    def _checked(
        self,
        x: Floats,
        info: Residuals,
        mode: str,
        rhs: Floats,
        asked: NDArray[Any] | None = None,
        twice: bool = False,
        by: NDArray[Any] | None = None,
    ) -> Callable[[], Certificate]:
        layout, at, error = self.layout, self.at, info.overall
        if self._doubtful or info.refactored:
            active = self._active_twice if twice else self._active
            if mode == "tangent":
                related = layout.computed_from(np.arange(layout.n) if asked is None else asked, active)
                blocks = np.logical_or.reduceat(related, layout.ptr[:-1])
                error = float(info.block[blocks].max(initial=0.0))
            else:
                seeded = np.flatnonzero((rhs.reshape(layout.n, -1) != 0.0).any(axis=1))
                related = layout.computed_from(seeded, active)
            undefined = related[at.undefined.rows]
            if undefined.any():
                raise self._undefined(int(np.flatnonzero(undefined)[0]))
            missing = at.undefined
            entries = related[missing.by_rows]
            if by is not None:
                entries &= np.isin(missing.by_parameters, by)
            if entries.any():
                e = int(np.flatnonzero(entries)[0])
                raise undefined_partial(
                    layout,
                    int(missing.by_rows[e]),
                    int(missing.by_slots[e]),
                    float(missing.by_partials[e]),
                    self.at.v,
                )
            concerned = np.logical_or.reduceat(related, layout.ptr[:-1])
            # a factor that had to be replaced may have been too far away to tell a singular block
            rcond = info.factors.condition() if info.refactored else at.rcond
            check_regular(layout, info.factors.status, rcond, self.multiple, concerned, self._last_digits)
        check_linear(mode, error)

        def certificate() -> Certificate:
            value = correction = None
            hidden = 0.0
            if mode == "adjoint" and x.ndim == 1:
                seeded = np.flatnonzero(rhs)
                value = float(rhs[seeded] @ at.v[layout.m + seeded])
                correction = float(x @ at.residual)
                used = np.flatnonzero(x)
                hidden = EPS * float(np.abs(x[used]) @ at.magnitude[used])
            return certify(
                layout,
                at.residual,
                at.magnitude,
                at.rcond,
                mode,
                error,
                value,
                correction,
                partial(kink_names, at),
                hidden,
            )

        return certificate

    def _bounded(
        self, certificate: Callable[[], Certificate], bound: Callable[[], dict[Any, Any]]
    ) -> Callable[[], Certificate]:
        """`certificate` with a bound on the errors of the derivatives, to be computed when it is read."""
        return lambda: replace(certificate(), _bound=bound)

    # -- reverse --------------------------------------------------------------------------------------------
    def _reverse(
        self, seeds: Floats, cols: NDArray[Any], at_any_point: bool
    ) -> tuple[Floats, Floats, Callable[[], Certificate]]:
        """λ (n,), Σ seeds · du/dp (m,) and their certificate, for weights of the states (n,)."""
        swept = None if self.flat is None else self.flat.pull(seeds)
        by = (
            cols if cols.size else None
        )  # multipliers alone are as strict as the derivatives by all parameters
        if swept is None:
            self._check_point(at_any_point)
            lam, certificate = self._adjoint(seeds, by)
            return lam, self._by_parameters(lam, cols), certificate
        lam, total = swept

        def later() -> Certificate:
            info = self.at.factors.residuals(lam, seeds, transpose=True)
            return self._checked(lam, info, "adjoint", seeds, by=by)()

        return lam, total, later

    def gradient(self, of: str, wrt: Sequence[str] | None, at_any_point: bool = False) -> Derivatives:
        """d of / d parameters, of a scalar output; {parameter: array of its shape}."""
        names = [i.name for i in self.layout.parameter_items()] if wrt is None else several(wrt)
        found = [self.layout.find_parameter(name)[0] for name in names]
        cols = np.concatenate([np.empty(0, np.int64), *found])
        seed = self._seed(of)
        lam, total, certificate = self._reverse(seed, cols, at_any_point)
        bound = partial(self._gradient_error, seed, lam, cols, names)
        return Derivatives(self.layout.split_parameters(total, names), self._bounded(certificate, bound))

    def _gradient_error(
        self, seed: Floats, lam: Floats, cols: NDArray[Any], wrt: Sequence[str] | None
    ) -> dict[str, Any]:
        out = np.zeros(self.layout.m)
        out[cols] = gradient_bound(self.at, seed, lam, cols)
        return self.layout.split_parameters(out, wrt)

    def multipliers(self, of: str, at_any_point: bool = False, hidden: bool = False) -> Derivatives:
        """λ of every constraint for a scalar output; {constraint: array of its shape}."""
        seed = self._seed(of)
        lam, _, certificate = self._reverse(seed, np.empty(0, np.int64), at_any_point)

        def bound() -> dict[Any, Any]:
            return self.layout.split_rows(multiplier_bound(self.at, seed, lam), hidden)

        return Derivatives(self.layout.split_rows(lam, hidden), self._bounded(certificate, bound))

    def vjp(self, weights: Mapping[str, ArrayLike], at_any_point: bool = False) -> Derivatives:
        """Σ weights · d output / d parameters; {parameter: array of its shape}."""
        seeds = np.zeros(self.layout.n)
        for name, value in by_name("weights", weights):
            position, shape = self.layout.find_output(name)
            seeds[position] += numbers(name, value, shape).ravel()
        cols = np.arange(self.layout.m)
        lam, total, certificate = self._reverse(seeds, cols, at_any_point)
        bound = partial(self._gradient_error, seeds, lam, cols, None)
        return Derivatives(self.layout.split_parameters(total), self._bounded(certificate, bound))

    def pull(self, seeds: Floats, at_any_point: bool = False) -> tuple[Floats, Callable[[], Certificate]]:
        """Σ seeds · du/dp, (m,), for weights of the states (n,) in block order."""
        _, total, certificate = self._reverse(seeds, np.arange(self.layout.m), at_any_point)
        return total, certificate

    def _by_parameters(self, lam: Floats, cols: NDArray[Any]) -> Floats:
        """−R_pᵀ λ, (m,) or (m, k), for λ (n,) or (n, k); refused if not finite for the parameters `cols`."""
        total = self.at.minus_by_parameters_transposed(lam)
        if np.isfinite(total[cols]).all():
            return total
        layout, data = self.layout, self.at.data
        rows, first = layout.machine.rows, layout.machine.nnz_u
        bad = np.flatnonzero(~np.isfinite(data[first:]) & np.isin(rows.b_col, cols))
        if not bad.size:
            raise CertificateError("adjoint", float("inf"), BACKWARD_LIMIT)  # a product overflowed
        row = int(np.searchsorted(rows.b_ptr, bad[0], side="right")) - 1
        raise undefined_partial(layout, row, first + int(bad[0]), float(data[first + bad[0]]), self.at.v)

    def _seed(self, of: str) -> Floats:
        position, shape = self.layout.find_output(of)
        if position.size != 1:
            one = f"{of}[{','.join('0' * len(shape))}]"
            raise ShapeError(
                str(of), shape, "a scalar", f"Name one element ({one}), or ask for jacobian or vjp."
            )
        seed = np.zeros(self.layout.n)
        seed[position] = 1.0
        return seed

    # -- forward --------------------------------------------------------------------------------------------
    def jvp(self, direction: Mapping[str, ArrayLike], at_any_point: bool = False) -> Derivatives:
        """Change of every state and definition per unit along a direction; {name: array of its shape}."""
        along = self.layout.direction(direction)
        tangent, certificate = self.push(along, at_any_point)

        def bound() -> dict[Any, Any]:
            cols = np.flatnonzero(along)
            errors = self._jacobian_error(np.arange(self.layout.n), cols)
            return self.layout.split_states(errors @ np.abs(along[cols]))

        return Derivatives(self.layout.split_states(tangent), self._bounded(certificate, bound))

    def push(self, direction: Floats, at_any_point: bool = False) -> tuple[Floats, Callable[[], Certificate]]:
        """du/dp · direction, (n,) in block order, for a parameter direction (m,)."""
        self._check_point(at_any_point)
        return self._tangent(direction)

    # -- second order ---------------------------------------------------------------------------------------
    # Differentiate R = 0 and R_uᵀ λ = J_uᵀ along ṗ, with L = J − λᵀR and J_uu = 0 for an output that is a state:
    #     R_u u̇ = −R_p ṗ
    #     R_uᵀ λ̇ = L_uu u̇ + L_up ṗ
    #     H ṗ = L_pu u̇ + L_pp ṗ − R_pᵀ λ̇
    # Two solves with the factors of the first order, none of its own; [L_pu u̇ + L_pp ṗ, L_uu u̇ + L_up ṗ] is one
    # pass over the terms.
    #
    # On a kink the first derivative that the rule chose is a slope from one side. The second derivative of the same
    # rules is none from any side: with r = hypot(x, y) at 0, whose rule is (1, 0), that of r² is 2 by x and 0 by y.
    def hessian_times(
        self, seed: Floats, directions: Floats, at_any_point: bool = False, one_sided: bool = False
    ) -> tuple[Floats, Callable[[], Certificate]]:
        """H ṗ (m, k) for directions ṗ (m, k), with H the second derivative by parameters of seed · u, seed (n,)."""
        self._check_point(at_any_point)
        if not one_sided:
            self._check_smooth(seed, directions)
        m, at = self.layout.m, self.at
        lam, _ = self._adjoint(seed)
        tangent, _ = self._tangent(directions, np.flatnonzero(seed), twice=True)
        moved = hessian_times(self.layout.machine, at.v, lam, np.concatenate([directions, tangent]))
        if not np.isfinite(moved).all():
            raise self._undefined_second(seed)
        lam_dot, certificate = self._adjoint(moved[m:])
        product = moved[:m] + at.minus_by_parameters_transposed(lam_dot)
        if not np.isfinite(product).all():
            raise self._undefined_second(seed)
        return product, certificate

    @cached_property
    def _has_kinks(self) -> bool:
        return bool(kinked(self.at))

    def _check_smooth(self, seed: Floats, directions: Floats) -> None:
        """Raise where the directions (m, k) move something across a kink that the output depends on."""
        if not self._has_kinks:
            return
        layout, rows = self.layout, self.layout.machine.rows
        moved = (directions != 0.0).any(axis=1)
        entered = np.unique(np.repeat(np.arange(layout.n), np.diff(rows.b_ptr))[moved[rows.b_col]])
        moves = np.append(moved, layout.used_by(entered))
        by = followed(layout.machine, self.at.v)[: layout.machine.nnz_u]
        related = layout.computed_from(np.flatnonzero(seed), by)
        for row, primitive in kinked(self.at, moves):
            if related[row]:
                block = int(np.searchsorted(layout.ptr, row, side="right")) - 1
                raise KinkError(
                    block,
                    *layout.block_names(block),
                    f"{AS_WRITTEN.get(primitive, primitive)} in constraint {layout.row_name(row)} sits on a kink "
                    "there, where its derivative is one-sided: no second derivative exists.",
                    "Move the parameters off that point, or write it with functions that are smooth there. "
                    "one_sided=True gives what the rules of the table of primitives make of it.",
                )

    def _undefined_second(self, seed: Floats) -> EvaluationError:
        layout = self.layout
        state = int(np.flatnonzero(seed)[0]) if seed.any() else 0
        block = int(np.searchsorted(layout.ptr, state, side="right")) - 1
        return EvaluationError(
            block,
            *layout.block_names(block),
            f"a second derivative of a constraint behind {layout.state_name(state)} is not finite there.",
            "The point is at the edge of a function's domain, as that of x**1.5 at 0: no second derivative exists.",
        )

    def hvp(
        self,
        of: str,
        direction: Mapping[str, ArrayLike],
        at_any_point: bool = False,
        one_sided: bool = False,
    ) -> Derivatives:
        """H times a parameter direction; {parameter: array of its shape}."""
        seed, along = self._seed(of), self.layout.direction(direction)[:, None]
        product, certificate = self.hessian_times(seed, along, at_any_point, one_sided)

        def bound() -> dict[Any, Any]:
            return self.layout.split_parameters(product_estimate(self.at, seed, along)[:, 0])

        return Derivatives(self.layout.split_parameters(product[:, 0]), self._bounded(certificate, bound))

    # The columns of H that share a colour are asked for in one product with the sum of their directions; each entry can
    # then be read from one place (`structure.colouring`). Without a pattern every column is a colour of its own.
    def hessian(
        self,
        of: str,
        wrt: Sequence[str] | str | None,
        sparse: bool = False,
        at_any_point: bool = False,
        one_sided: bool = False,
    ) -> Derivatives:
        """{(a, b): (size of a, size of b)} of second derivatives of a scalar output, symmetric."""
        layout = self.layout
        names = [i.name for i in layout.parameter_items()] if wrt is None else several(wrt)
        inputs = [layout.find_parameter(name)[0] for name in names]
        cols = np.concatenate([np.empty(0, np.int64), *inputs])
        total, certificate = self.second(self._seed(of), cols, sparse, at_any_point, one_sided)
        at = np.cumsum([0] + [p.size for p in inputs])

        def parts(total: Any) -> dict[Any, Any]:
            return {
                (a, b): total[at[i] : at[i + 1], at[j] : at[j + 1]]
                for i, a in enumerate(names)
                for j, b in enumerate(names)
            }

        def bound() -> dict[Any, Any]:
            directions = np.zeros((layout.m, cols.size))
            directions[cols, np.arange(cols.size)] = 1.0
            return parts(product_estimate(self.at, self._seed(of), directions)[cols])

        return Derivatives(parts(total), self._bounded(certificate, bound))

    def second(
        self,
        seed: Floats,
        cols: NDArray[Any],
        sparse: bool = False,
        at_any_point: bool = False,
        one_sided: bool = False,
    ) -> tuple[Any, Callable[[], Certificate]]:
        """d²(seed · u)/dp² by the parameter positions `cols` (k,): (k, k), sparse or not."""
        unique, back = np.unique(cols, return_inverse=True)
        k = unique.size
        pattern = coupled(self.layout, np.flatnonzero(seed), unique) if k > FEW_COLUMNS else None
        colours = np.arange(k) if pattern is None else star_colouring(pattern.indptr, pattern.indices)
        count = int(colours.max(initial=-1)) + 1
        if count == k:
            pattern, colours = None, np.arange(k)
        parts, certificates = [], []
        width = max(1, SLICE // max(self.layout.n + self.layout.m, 1))
        for lo in range(0, max(count, 1), width):
            chosen = np.flatnonzero((lo <= colours) & (colours < lo + width))
            directions = np.zeros((self.layout.m, min(width, count - lo)))
            directions[unique[chosen], colours[chosen] - lo] = 1.0
            product, certificate = self.hessian_times(seed, directions, at_any_point, one_sided)
            parts.append(product[unique])
            certificates.append(certificate)
        product = np.concatenate(parts, axis=1)
        if pattern is None:
            total = 0.5 * (product + product.T)
            if sparse:
                import scipy.sparse as sp

                total = sp.csr_array(total)
        else:
            row, colour = places(pattern.indptr, pattern.indices, colours)
            pattern.data = product[row, colour]
            # both of two entries that mirror each other were read where the product has one of them
            total = 0.5 * (pattern + pattern.T)
            total = total.tocsr() if sparse else total.toarray()
        if cols.size != k or (back != np.arange(k)).any():
            total = total[back][:, back]
        return total, _worst(certificates)

    # -- both -----------------------------------------------------------------------------------------------
    def jacobian(
        self,
        of: Sequence[str],
        wrt: Sequence[str] | None,
        sparse: bool = False,
        mode: str | None = None,
        at_any_point: bool = False,
    ) -> Derivatives:
        """{(output, parameter): array of shape (output size, parameter size)}, by the cheaper direction."""
        self._check_point(at_any_point)
        layout = self.layout
        names = [i.name for i in layout.parameter_items()] if wrt is None else several(wrt)
        of = several(of)
        outputs = [layout.find_output(name) for name in of]
        inputs = [layout.find_parameter(name) for name in names]
        rows = np.concatenate([p for p, _ in outputs]) if outputs else np.empty(0, np.int64)
        cols = np.concatenate([p for p, _ in inputs]) if inputs else np.empty(0, np.int64)
        total, certificate = self.total(rows, cols, sparse, mode)
        bands = list(zip(of, _runs(outputs), strict=True))
        columns = list(zip(names, _runs(inputs), strict=True))

        def named(matrix: Any) -> dict[Any, Any]:
            return {
                (name, parameter): band[:, column]
                for name, band in ((name, matrix[row]) for name, row in bands)
                for parameter, column in columns
            }

        def bound() -> dict[Any, Any]:
            return named(self._jacobian_error(rows, cols))

        return Derivatives(named(total), self._bounded(certificate, bound))

    def _jacobian_error(self, rows: NDArray[Any], cols: NDArray[Any]) -> Floats:
        out = np.zeros((rows.size, cols.size))
        for i, row in enumerate(rows.tolist()):
            seed = np.zeros(self.layout.n)
            seed[row] = 1.0
            out[i] = gradient_bound(self.at, seed, self._adjoint(seed, cols)[0], cols)
        return out

    def total(
        self, rows: NDArray[Any], cols: NDArray[Any], sparse: bool = False, mode: str | None = None
    ) -> tuple[Any, Callable[[], Certificate]]:
        """d u[rows] / d p[cols], (rows, cols), in the direction that needs fewer solves."""
        if mode not in (None, "adjoint", "tangent"):
            raise DeclarationError("mode", f"{mode!r} is neither 'adjoint' nor 'tangent'.")
        if mode is None:
            mode = "adjoint" if rows.size <= cols.size else "tangent"
        return (self._rows_of if mode == "adjoint" else self._columns_of)(rows, cols, sparse)

    @property
    def _width(self) -> int:
        """Right-hand sides in one slice: a panel of those that large blocks are solved with, if there are any.

        The numbers of a panel stay in the cache through solves, residuals and products (grid of 9241 buses,
        200 × 200: 240 ms in one slice, 175 in panels).
        """
        return PANEL if self.layout.pattern.large else max(1, SLICE // max(self.layout.n, 1))

    def _rows_of(
        self, rows: NDArray[Any], cols: NDArray[Any], sparse: bool
    ) -> tuple[Any, Callable[[], Certificate]]:
        """One adjoint per output, all of a slice in one sweep."""
        import scipy.sparse as sp

        n = self.layout.n
        parts, certificates = [], []
        width = self._width
        for lo in range(0, max(rows.size, 1), width):
            some = rows[lo : lo + width]
            seeds = np.zeros((n, some.size))
            seeds[some, np.arange(some.size)] = 1.0
            lam, certificate = self._adjoint(seeds, cols)
            part = self._by_parameters(lam, cols)[cols].T
            parts.append(sp.csr_array(part) if sparse else part)
            certificates.append(certificate)
        return (sp.vstack(parts, format="csr") if sparse else np.concatenate(parts)), _worst(certificates)

    def _columns_of(
        self, rows: NDArray[Any], cols: NDArray[Any], sparse: bool
    ) -> tuple[Any, Callable[[], Certificate]]:
        """One tangent per parameter, all of a slice in one sweep."""
        import scipy.sparse as sp

        parts, certificates = [], []
        width = self._width
        for lo in range(0, max(cols.size, 1), width):
            some = cols[lo : lo + width]
            directions = np.zeros((self.layout.m, some.size))
            directions[some, np.arange(some.size)] = 1.0
            tangent, certificate = self._tangent(directions, rows)
            part = tangent[rows]
            parts.append(sp.csr_array(part) if sparse else part)
            certificates.append(certificate)
        return (sp.hstack(parts, format="csr") if sparse else np.concatenate(parts, axis=1)), _worst(
            certificates
        )


def _runs(found: Sequence[tuple[NDArray[Any], Any]]) -> list[slice]:
    """The places of each of several arrays of positions, one after the other."""
    ends = list(accumulate((p.size for p, _ in found), initial=0))
    return [slice(a, b) for a, b in pairwise(ends)]


def check_strict(found: Derivatives, strict: bool | float) -> Derivatives:
    """`found`, unless `strict` asks for more than its certificate gives: see docs/guide.md, "How strict"."""
    if strict is False:
        return found
    limit = STRICT_LIMIT if strict is True else strict
    if not (isinstance(limit, (int, float, np.number)) and 0.0 < limit < 1.0):
        raise DeclarationError(
            "strict", f"{strict!r} is neither True, False nor a relative error between 0 and 1."
        )
    certificate = found.certificate
    if certificate.kinks:
        raise CertificateError(
            certificate.mode, 0.0, float(limit), listed(certificate.kinks),
            "the derivative is one-sided there, at a kink; move the parameters, or leave out strict",
        )  # fmt: skip
    sizes = {name: float(abs(x).max()) if np.prod(np.shape(x)) else 0.0 for name, x in found.items()}
    overall = max(sizes.values(), default=0.0)
    for name, bound in (certificate.gradient_error or {}).items():
        worst = float(np.max(bound, initial=0.0))
        if not worst <= limit * (sizes[name] or overall):
            shown = " by ".join(name) if isinstance(name, tuple) else name
            raise CertificateError(
                certificate.mode, worst, float(limit), shown,
                f"values up to {sizes[name]:.3g} may be wrong by {worst:.1e}, more than {limit:.0e} of them; the block "
                "is ill conditioned or its states are known to few digits there: look at solution.certificate",
            )  # fmt: skip
    return found


def _worst(certificates: list[Callable[[], Certificate]]) -> Callable[[], Certificate]:
    return lambda: max((c() for c in certificates), key=lambda c: c.linear_residual or 0.0)
