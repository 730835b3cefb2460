"""Diagnosis: what is wrong with a program, or could become wrong, in the user's names.

Takes a Program (structure alone), or a System with a point: a Solution, a failed solve, values, or nothing, which means
the starting guesses with definitions evaluated. Gives a frozen `Diagnosis` of `Finding`s, worst first. Changes nothing,
and never forms a matrix denser than the program's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly.lower import Lowered, lower
from lagrad.assembly.machine import Tapes, assign_rows, incidence
from lagrad.certificate import EPS, RCOND_LIMIT, RESIDUAL_LIMIT, scaled_residual
from lagrad.derivatives import kinked
from lagrad.errors import ConvergenceError, DeclarationError, EvaluationError, listed
from lagrad.expr.primitives import OPCODE, PRIMITIVES
from lagrad.expr.text import hidden_name
from lagrad.layout import Layout, numbers
from lagrad.linearize import Linearization
from lagrad.program import Program
from lagrad.solve import EXPLICIT, Solution
from lagrad.structure.dulmage_mendelsohn import dulmage_mendelsohn
from lagrad.structure.matching import maximum_matching

Floats = NDArray[np.float64]

ERROR, WARNING, NOTE = "error", "warning", "note"
SHOWN: Final = 12  # findings of one kind; more are counted, not listed
ILL: Final = 1e-8  # rcond below which half of the digits of a derivative are in doubt
PARALLEL: Final = 1e-12  # 1 − |cosine| of two rows
RANGE: Final = 1e8  # between the largest entries of two rows or columns of a block
LOST: Final = 1e8  # terms so many times larger than what they determine
TAKES_PART: Final = 1e-3  # of the largest entry of a null vector
AT_BOUND: Final = 1e-9
COMMUTE: Final = (
    "minimum",
    "maximum",
    "hypot",
    "logaddexp",
    "equal",
    "not_equal",
    "logical_and",
    "logical_or",
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    kind         over_determined, under_determined, no_state, duplicate, unused_state, singular, ill_conditioned,
                 parallel, row_scale, column_scale, cancellation, at_bound, kink, not_finite, residual, feeds, fed
    severity     "error": there is no solution, or no derivative; "warning": digits are lost; "note": good to know
    message      a sentence that names things and says what to do
    constraints  names of the constraints concerned
    states       names of the states concerned
    figures      the numbers behind it, by name
    """

    kind: str
    severity: str
    message: str
    constraints: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"


@dataclass(frozen=True)
class Diagnosis:
    """The findings, errors first; `point` says where numbers were looked at, "" for structure alone."""

    program: str
    findings: tuple[Finding, ...]
    point: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was found that prevents a solution or a derivative."""
        return all(f.severity != ERROR for f in self.findings)

    def of(self, kind: str) -> list[Finding]:
        """The findings of one kind."""
        return [f for f in self.findings if f.kind == kind]

    def __str__(self) -> str:
        where = f" {self.point}" if self.point else ""
        if not self.findings:
            return f"{self.program}: nothing wrong was found{where}"
        return "\n".join([f"{self.program}: {len(self.findings)} finding{'s' * (len(self.findings) != 1)}{where}"]
                         + [f"  {f}" for f in self.findings])  # fmt: skip


def diagnose(program: Program) -> Diagnosis:
    """What is wrong with the structure of a program, whatever the numbers. Needs no System: it says why there is none.

    Over- and under-determined parts in connected pieces, constraints that mention no state, duplicate constraints,
    states in no constraint. `System.diagnose` looks at numbers too.

    >>> import lagrad as lg
    >>> program = lg.Program("pair")
    >>> x, y = program.state("x"), program.state("y")
    >>> program.constrain(x + y == 1.0, name="total")
    >>> print(lg.diagnose(program))
    pair: 1 finding
      error: 1 constraint (total) for 2 states (x, y): add 1 constraint that mentions them, or make 1 a parameter.
    """
    lowered = lower(
        program.graph.arrays(), np.array(program.lhs, dtype=np.int32), np.array(program.rhs, dtype=np.int32),
        program.parameters.size, program.states.size, program.share_all,
    )  # fmt: skip
    return Diagnosis(program.name, _sorted([*_structural(program, lowered), *_same_rows(program, lowered)]))


def diagnose_system(
    layout: Layout,
    at: Solution | ConvergenceError | EvaluationError | Mapping[str, ArrayLike] | None,
    p: Floats,
) -> Diagnosis:
    """What is wrong at a point; see `System.diagnose`. `p` (m,): parameters where `at` has none."""
    findings: list[Finding] = []
    if isinstance(at, Solution):
        if at.layout is not layout:
            raise DeclarationError(
                "diagnose", "the solution belongs to another System.", "Ask the System that solved."
            )
        v, point = at.v, "at the solution"
        linear = at.linearization
    else:
        v, point = _point(layout, p, at), "at the values given"
        with np.errstate(all="ignore"):
            linear = Linearization.at(layout, v)
        if isinstance(at, (ConvergenceError, EvaluationError)):
            point = "where solving ended"
            findings += _around(layout, linear, at.block)
        elif at is None:
            point = "at the starting values"
        else:
            findings += _residuals(layout, linear, np.arange(layout.n))
    with np.errstate(all="ignore"):
        findings += _not_finite(layout, linear)
        finite = np.isfinite(linear.data).all() and np.isfinite(linear.residual).all()
        findings += _same_in_layout(layout)
        if finite:
            findings += _conditions(layout, linear)
            findings += _parallel(layout, linear)
            findings += _scales(layout, linear)
            findings += _cancellation(layout, linear)
            findings += _kinks(layout, linear)
        findings += _bounds(layout, v)
    if at is None:  # solving only starts there
        findings = [
            replace(f, severity=WARNING) if f.severity == ERROR and f.kind != "duplicate" else f
            for f in findings
        ]
    return Diagnosis(layout.name, _sorted(findings), point)


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: (ERROR, WARNING, NOTE).index(f.severity)))


def _several(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


# -- structure -----------------------------------------------------------------------------------------------------
def _structural(program: Program, lowered: Lowered) -> Iterator[Finding]:
    rows, cols = lowered.n_rows, lowered.n_states
    n_rows, n_cols = program.constraints.size, program.states.size
    indptr, indices = incidence(lowered)
    matching = maximum_matching(rows, cols, indptr, indices, lowered.row_lhs)
    if rows == cols == matching.rank:
        return

    def of_hidden(h: int) -> str:
        return f"‹{hidden_name(program.graph, int(lowered.hidden[h]))}›"

    def names(piece: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (
            tuple(
                program.constraint_name(i) if i < n_rows else of_hidden(i - n_rows)
                for i in piece.rows.tolist()
            ),
            tuple(
                program.state_name(j) if j < n_cols else of_hidden(j - n_cols) for j in piece.cols.tolist()
            ),
        )

    parts = dulmage_mendelsohn(rows, cols, indptr, indices, matching)
    for piece in parts.pieces("over"):
        c, s = names(piece)
        extra = len(c) - len(s)
        if not s:
            yield Finding(
                "no_state", ERROR,
                f"constraint {c[0]} mentions no state, so that nothing can make it hold: turn a parameter in it into a "
                "state, or remove it.", c, s,
            )  # fmt: skip
            continue
        yield Finding(
            "over_determined", ERROR,
            f"{_several(len(c), 'constraint')} ({listed(c)}) for {_several(len(s), 'state')} ({listed(s)}): remove "
            f"{extra} of these constraints, or turn {_several(extra, 'parameter')} in them into "
            f"{'a state' if extra == 1 else 'states'}.", c, s, {"too_many": extra},
        )  # fmt: skip
    for piece in parts.pieces("under"):
        c, s = names(piece)
        few = len(s) - len(c)
        if not c:
            yield Finding(
                "unused_state", ERROR,
                f"state {s[0]} is in no constraint: constrain it, make it a parameter, or remove it.", c, s,
            )  # fmt: skip
            continue
        yield Finding(
            "under_determined", ERROR,
            f"{_several(len(c), 'constraint')} ({listed(c)}) for {_several(len(s), 'state')} ({listed(s)}): add "
            f"{_several(few, 'constraint')} that {'mentions' if few == 1 else 'mention'} them, or make {few} "
            f"{'a parameter' if few == 1 else 'of them parameters'}.", c, s, {"too_few": few},
        )  # fmt: skip


class _Rows(NamedTuple):
    """Rows of terms, from a Lowered or a Machine."""

    n: int
    row: NDArray[Any]
    template: NDArray[Any]
    weight: Floats
    leaf_ptr: NDArray[Any]
    leaf: NDArray[Any]
    const_ptr: NDArray[Any]
    const: Floats
    lhs: NDArray[Any]  # variable, or -1
    sign: Floats
    tapes: Tapes


def _same_rows(program: Program, lowered: Lowered) -> Iterator[Finding]:
    rows = _Rows(
        lowered.n_rows, lowered.term_row, lowered.term_template, lowered.term_weight, lowered.leaf_ptr, lowered.leaf,
        lowered.const_ptr, lowered.const,
        np.where(lowered.row_lhs >= 0, lowered.n_parameters + lowered.row_lhs, -1), lowered.row_sign,
        Tapes(
            lowered.tape_ptr, lowered.tape_op, lowered.tape_a, lowered.tape_b, lowered.template_leaves,
            lowered.template_consts,
        ),
    )  # fmt: skip
    for group in _duplicates(rows):
        if group[-1] < program.constraints.size:
            yield _duplicate(tuple(program.constraint_name(i) for i in group))


def _same_in_layout(layout: Layout) -> Iterator[Finding]:
    terms, rows = layout.machine.terms, layout.machine.rows
    found = _duplicates(
        _Rows(
            layout.n, terms.row, terms.template, terms.weight, terms.leaf_ptr, terms.leaf, terms.const_ptr, terms.const,
            rows.lhs, rows.sign, layout.machine.tapes,
        )
    )  # fmt: skip
    for group in found:
        group = sorted(group, key=lambda k: int(layout.machine.row_order[k]))
        yield _duplicate(tuple(layout.row_name(k) for k in group))


def _duplicate(names: tuple[str, ...]) -> Finding:
    return Finding(
        "duplicate", ERROR,
        f"constraints {listed(names)} say the same: remove all but {names[0]}, and constrain what is left free.", names,
    )  # fmt: skip


def _duplicates(rows: _Rows) -> list[list[int]]:
    """Groups of rows that are the same function, but for their signs and the order of operands; each ascending.

    Every row is evaluated with whole numbers modulo 2**64 in place of reals, variables at random odd ones: sums and
    products then obey all their laws exactly, so equal polynomials have equal values, whatever the order in which they
    were written; other functions, and constants that are not whole, stand for scrambled numbers. Unequal rows meet by
    accident only (Schwartz 1980), and must then have the same variables too.
    """
    if not rows.row.size:
        return []
    total = np.zeros(rows.n, np.uint64)
    with np.errstate(over="ignore"):
        order = np.argsort(rows.template, kind="stable")
        used, first = np.unique(rows.template[order], return_index=True)
        for template, which in zip(used.tolist(), np.split(order, first[1:]), strict=True):
            value = _whole_values(rows, template, which)
            np.add.at(total, rows.row[which], _whole(rows.weight[which]) * value)
        explicit = np.flatnonzero(rows.lhs >= 0)
        total[explicit] += _whole(rows.sign[explicit]) * _variable(rows.lhs[explicit])
        key = np.minimum(total, np.uint64(0) - total)
    order = np.argsort(key, kind="stable")
    groups = np.split(order, np.flatnonzero(key[order][1:] != key[order][:-1]) + 1)
    candidates = [g for g in groups if g.size > 1]
    if not candidates:
        return []
    by_row = np.argsort(rows.row, kind="stable")
    start = np.searchsorted(rows.row[by_row], np.arange(rows.n + 1))

    def variables(r: int) -> frozenset[int]:
        terms = by_row[start[r] : start[r + 1]].tolist()
        own = [int(j) for e in terms for j in rows.leaf[rows.leaf_ptr[e] : rows.leaf_ptr[e + 1]]]
        return frozenset([*own, int(rows.lhs[r])] if rows.lhs[r] >= 0 else own)

    found = []
    for group in candidates:
        alike: dict[frozenset[int], list[int]] = {}
        for r in group.tolist():
            alike.setdefault(variables(r), []).append(r)
        found += [sorted(g) for names, g in alike.items() if names and len(g) > 1]
    return sorted(found)


def _whole_values(rows: _Rows, template: int, which: NDArray[Any]) -> NDArray[np.uint64]:
    """What the instances `which` of a template are modulo 2**64."""
    tapes = rows.tapes
    values = [_variable(rows.leaf[rows.leaf_ptr[which] + j]) for j in range(int(tapes.leaves[template]))] + [
        _whole(rows.const[rows.const_ptr[which] + j]) for j in range(int(tapes.consts[template]))
    ]
    for q in range(int(tapes.ptr[template]), int(tapes.ptr[template + 1])):
        name, a, b = PRIMITIVES[tapes.op[q]].name, values[tapes.a[q]], values[tapes.b[q]]
        stamp = _mixed(np.full(1, 1 + int(tapes.op[q]), np.uint64))
        if name == "add":
            value = a + b
        elif name == "sub":
            value = a - b
        elif name == "neg":
            value = np.uint64(0) - a
        elif name == "mul":
            value = a * b
        elif name == "square":
            value = a * a
        elif name == "div":
            value = a * _mixed(b)
        elif name == "reciprocal":
            value = _mixed(a)
        elif name in COMMUTE:
            value = _mixed(stamp + _mixed(a) + _mixed(b))
        elif PRIMITIVES[tapes.op[q]].arity == 2:
            value = _mixed(stamp + _mixed(a + _mixed(b)))
        else:
            value = _mixed(stamp + _mixed(a))
        values.append(value)
    return values[-1]


def _variable(index: NDArray[Any]) -> NDArray[np.uint64]:
    return _mixed(index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)


def _whole(x: Floats) -> NDArray[np.uint64]:
    """Constants: whole numbers as they are, others scrambled, both with their sign."""
    size = np.abs(x)
    exact = (size == np.floor(size)) & (size < 2.0**53)
    out = np.where(exact, np.where(exact, size, 0.0).astype(np.uint64), _mixed(_bits(size)))
    return np.where(x < 0.0, np.uint64(0) - out, out)


def _bits(x: Floats) -> NDArray[np.uint64]:
    return np.ascontiguousarray(x, dtype=np.float64).view(np.uint64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of 64-bit numbers that spreads what is near (SplitMix64; Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


# -- a point -------------------------------------------------------------------------------------------------------
def _point(layout: Layout, p: Floats, at: Any) -> Floats:
    """v: what `at` gives, guesses for the rest, definitions evaluated unless they were given."""
    if isinstance(at, (ConvergenceError, EvaluationError)) and at.point is not None:
        if at.point.shape != (layout.m + layout.n,):
            raise DeclarationError(
                "diagnose", "the failure is of another System.", "Ask the System that failed."
            )
        return at.point
    given = at.values if isinstance(at, ConvergenceError) else at if isinstance(at, Mapping) else {}
    v = np.concatenate([p, layout.guess])
    fixed = np.zeros(layout.n, np.bool_)
    for name, value in given.items():
        if isinstance(at, ConvergenceError) and name.startswith("‹"):
            continue
        position, shape = layout.find_output(name)
        v[layout.m + position] = numbers(name, value, shape).ravel()
        fixed[position] = True
    machine, block = layout.machine, np.repeat(np.arange(layout.kind.size), np.diff(layout.ptr))
    # in block order: the rows of explicit blocks, and within others what opens them
    rows = np.concatenate([np.flatnonzero(layout.kind[block] == EXPLICIT), layout.opening]).astype(np.int32)
    within = np.concatenate([np.zeros(rows.size - layout.opening.size), 1.0 + np.arange(layout.opening.size)])
    rows = rows[np.lexsort((within, block[machine.rows.lhs[rows] - layout.m]))] if rows.size else rows
    rows = rows[~fixed[machine.rows.lhs[rows] - layout.m]] if rows.size else rows
    if rows.size:
        assign_rows(rows, machine.tapes, machine.terms, machine.rows, np.empty(machine.registers), v)
    return v


def _block_of(layout: Layout, position: int) -> int:
    return int(np.searchsorted(layout.ptr, position, side="right")) - 1


def _not_finite(layout: Layout, at: Linearization) -> Iterator[Finding]:
    rows = layout.machine.rows
    by_row = np.concatenate([
        np.repeat(np.arange(layout.n), np.diff(rows.a_ptr)), np.repeat(np.arange(layout.n), np.diff(rows.b_ptr))
    ])  # fmt: skip
    bad = ~np.isfinite(at.residual)
    bad[by_row[~np.isfinite(at.data)]] = True
    bad[at.undefined.rows] = True
    for k in np.flatnonzero(bad)[:SHOWN].tolist():
        finite = np.isfinite(at.residual[k]) and np.isfinite(at.v[layout.m + k])
        what = "has a partial that is" if finite else "is"
        yield Finding(
            "not_finite", ERROR,
            f"constraint {layout.row_name(k)} {what} not finite there: it is outside the domain of log, sqrt, a power "
            "or a division, or overflows. Give guesses and bounds inside.",
            (layout.row_name(k),), (layout.state_name(k),), {"residual": float(at.residual[k])},
        )  # fmt: skip


def _residuals(layout: Layout, at: Linearization, rows: NDArray[Any]) -> Iterator[Finding]:
    """The constraints that hold least, among some rows."""
    scaled = scaled_residual(at.residual[rows], at.magnitude[rows])
    order = np.argsort(-scaled, kind="stable")[:SHOWN]
    for k, size in zip(rows[order].tolist(), scaled[order].tolist(), strict=True):
        if size > RESIDUAL_LIMIT:
            yield Finding(
                "residual", ERROR,
                f"constraint {layout.row_name(k)} does not hold: residual {at.residual[k]:.3g}, where terms of size "
                f"{at.magnitude[k]:.3g} should cancel.",
                (layout.row_name(k),), (), {"residual": float(at.residual[k]), "scaled": size},
            )  # fmt: skip


def _around(layout: Layout, at: Linearization, block: int) -> Iterator[Finding]:
    """Of a block that was not solved: its worst residuals, the blocks that it uses, the blocks that wait for it."""
    lo, hi = int(layout.ptr[block]), int(layout.ptr[block + 1])
    yield from _residuals(layout, at, np.arange(lo, hi))
    a_ptr, a_col = layout.machine.rows.a_ptr, layout.machine.rows.a_col
    used = a_col[a_ptr[lo] : a_ptr[hi]]
    used = np.unique(used[used < lo])
    constraints, _ = layout.block_names(block)
    here = f"block {block} ({listed(constraints)})"
    for b in np.unique(np.searchsorted(layout.ptr, used, side="right") - 1)[::-1][:SHOWN].tolist():
        states = [layout.state_name(k) for k in used.tolist() if layout.ptr[b] <= k < layout.ptr[b + 1]]
        kind = ("explicit", "implicit", "cyclic")[layout.kind[b]]
        values = {
            s: float(at.v[layout.m + k])
            for s, k in zip(states, used[used >= layout.ptr[b]].tolist(), strict=False)
        }
        shown = ", ".join(f"{s} = {x:.6g}" for s, x in list(values.items())[:6])
        yield Finding(
            "feeds", NOTE, f"{here} takes {shown} from block {b} ({kind}; {listed(layout.block_names(b)[0])}).",
            tuple(layout.block_names(b)[0]), tuple(states), values,
        )  # fmt: skip
    inside = (a_col >= lo) & (a_col < hi)
    users = np.repeat(np.arange(layout.n), np.diff(a_ptr))[inside]
    users = users[users >= hi]
    blocks = np.unique(np.searchsorted(layout.ptr, users, side="right") - 1)
    for b in blocks[:SHOWN].tolist():
        names, states = layout.block_names(b)
        yield Finding(
            "fed", NOTE, f"block {b} ({listed(names)}) waits for {here}.", tuple(names), tuple(states)
        )


def _conditions(layout: Layout, at: Linearization) -> Iterator[Finding]:
    """Blocks that are singular or nearly so, with what takes part in it."""
    rcond = np.where(at.factors.status != 0, 0.0, at.rcond)
    for b in np.argsort(rcond, kind="stable")[:SHOWN].tolist():
        if not rcond[b] < ILL:
            break
        null = at.factors.null_vectors(b)
        constraints = _parts(null.constraints)
        states = _parts(null.states)
        lo = int(layout.ptr[b])
        c = tuple(layout.row_name(lo + k) for k in constraints)
        s = tuple(layout.state_name(lo + k) for k in states)
        singular = rcond[b] <= RCOND_LIMIT
        figures = {"rcond": float(rcond[b]), "residual": null.residual, "block": float(b)}
        moves = ", ".join(
            f"{null.right[k] / null.right[states[0]]:+.3g} {layout.state_name(lo + k)}" for k in states[:6]
        )
        if singular:
            message = (
                f"block {b} is singular: constraints {listed(c)} depend on each other to first order, and states "
                f"{listed(s)} are not determined: they can move along ({moves}{', …' if len(states) > 6 else ''}). "
                "Replace one of these constraints, or start elsewhere."
            )
        else:
            message = (
                f"block {b} is ill conditioned (rcond {rcond[b]:.1e}): constraints {listed(c)} nearly depend on each "
                f"other, and states {listed(s)} lose about {-np.log10(rcond[b]):.0f} of 16 digits."
            )
        yield Finding(
            "singular" if singular else "ill_conditioned",
            ERROR if singular else WARNING,
            message,
            c,
            s,
            figures,
        )


def _largest(x: Floats) -> float:
    parts = _parts(x)
    return float(x[parts[0]]) if parts and x[parts[0]] != 0.0 else 1.0


def _parts(x: Floats) -> list[int]:
    """Entries of a null vector that take part, largest first."""
    size = np.abs(x)
    # entries that rounding alone tells apart keep the order of the block, on every machine
    order = np.argsort(-np.round(size / size.max(initial=1e-300), 6), kind="stable")
    return order[size[order] > TAKES_PART * size.max(initial=0.0)].tolist()


def _scaled_entries(layout: Layout, at: Linearization) -> tuple[NDArray[Any], NDArray[Any], Floats]:
    """Entries of R_u inside blocks of more than one state: row, column, partial · size of the state."""
    rows = layout.machine.rows
    row = np.repeat(np.arange(layout.n), np.diff(rows.a_ptr))
    block = np.repeat(np.arange(layout.kind.size), np.diff(layout.ptr))
    cyclic = np.diff(layout.ptr)[block] > 1
    inside = cyclic[row] & (block[row] == block[rows.a_col])
    size = np.maximum(np.abs(at.v[layout.m :]), layout.scale)
    return row[inside], rows.a_col[inside], at.data[: layout.machine.nnz_u][inside] * size[rows.a_col[inside]]


def _parallel(layout: Layout, at: Linearization) -> Iterator[Finding]:
    """Pairs of rows of one block that point the same way. Rows are sorted by a projection, neighbours compared."""
    row, col, value = _scaled_entries(layout, at)
    length = np.sqrt(np.bincount(row, weights=value * value, minlength=layout.n))
    unit = value / np.where(length > 0.0, length, 1.0)[row]
    random = np.random.default_rng(0).standard_normal(layout.n)
    key = np.bincount(row, weights=unit * random[col], minlength=layout.n)
    block = np.repeat(np.arange(layout.kind.size), np.diff(layout.ptr))
    candidates = np.flatnonzero((length > 0.0) & (np.diff(layout.ptr)[block] > 1))
    order = candidates[np.lexsort((np.abs(key[candidates]), block[candidates]))]
    close = (np.abs(np.diff(np.abs(key[order]))) < 1e-5) & (np.diff(block[order]) == 0)
    start = np.searchsorted(row, np.arange(layout.n + 1))

    def entries(r: int) -> dict[int, float]:
        return dict(
            zip(col[start[r] : start[r + 1]].tolist(), unit[start[r] : start[r + 1]].tolist(), strict=True)
        )

    shown = 0
    for k in np.flatnonzero(close).tolist():
        one, two = sorted(order[k : k + 2].tolist())
        a, b = entries(one), entries(two)
        sign = 1.0 if sum(x * b.get(j, 0.0) for j, x in a.items()) >= 0.0 else -1.0
        # 1 − |cosine| is half the squared distance of the unit rows, which rounding does not blur
        apart = 0.5 * sum((a.get(j, 0.0) - sign * b.get(j, 0.0)) ** 2 for j in a.keys() | b.keys())
        if apart > PARALLEL:
            continue
        names = (layout.row_name(one), layout.row_name(two))
        states = tuple(layout.state_name(j) for j in a)
        yield Finding(
            "parallel", WARNING,
            f"constraints {names[0]} and {names[1]} move alike with their states ({listed(states)}): to first order "
            "they say the same there.", names, states, {"one_minus_cosine": apart},
        )  # fmt: skip
        shown += 1
        if shown == SHOWN:
            return


def _scales(layout: Layout, at: Linearization) -> Iterator[Finding]:
    """Blocks in which rows, or columns, differ by many powers of ten."""
    row, col, value = _scaled_entries(layout, at)
    rows, cols = np.zeros(layout.n), np.zeros(layout.n)
    np.maximum.at(rows, row, np.abs(value))
    raw = np.abs(value) / np.maximum(np.abs(at.v[layout.m :]), layout.scale)[col]
    np.maximum.at(cols, col, raw)
    far = np.zeros(layout.kind.size, np.bool_)
    for sizes in (rows, cols) if layout.n else ():
        low, high = (extreme.reduceat(sizes, layout.ptr[:-1]) for extreme in (np.minimum, np.maximum))
        far |= high > RANGE * low
    for b in np.flatnonzero(far & (np.diff(layout.ptr) > 1))[:SHOWN].tolist():
        lo, hi = int(layout.ptr[b]), int(layout.ptr[b + 1])
        for kind, sizes, name, what in (
            ("row_scale", rows, layout.row_name, "constraints"),
            ("column_scale", cols, layout.state_name, "states"),
        ):
            part = sizes[lo:hi]
            if not (part > 0.0).all() or part.max() <= RANGE * part.min():
                continue
            small, large = name(lo + int(np.argmin(part))), name(lo + int(np.argmax(part)))
            ratio = float(part.max() / part.min())
            pair = (small, large)
            yield Finding(
                kind, NOTE,
                f"{what} of block {b} are of very different sizes: {large} {ratio:.0e} times {small}. lagrad scales "
                "them; other units would make figures easier to read.",
                pair if kind == "row_scale" else (), pair if kind == "column_scale" else (), {"ratio": ratio},
            )  # fmt: skip


def _cancellation(layout: Layout, at: Linearization) -> Iterator[Finding]:
    """Rows whose terms are so large beside what they determine that digits of the states are lost."""
    rows = layout.machine.rows
    row = np.repeat(np.arange(layout.n), np.diff(rows.a_ptr))
    size = np.maximum(np.abs(at.v[layout.m :]), layout.scale)
    effect = np.zeros(layout.n)
    np.maximum.at(effect, row, np.abs(at.data[: layout.machine.nnz_u]) * size[rows.a_col])
    lost = np.where(effect > 0.0, at.magnitude / effect, 0.0)
    for k in np.argsort(-lost, kind="stable")[:SHOWN].tolist():
        if lost[k] <= LOST:
            return
        name = layout.row_name(k)
        yield Finding(
            "cancellation", WARNING,
            f"terms of size {at.magnitude[k]:.3g} cancel in constraint {name}, where its states account for "
            f"{effect[k]:.3g}: about {np.log10(lost[k]):.0f} of 16 digits are lost. Rewrite the difference "
            "(expm1, log1p, a common factor taken out).",
            (name,), (layout.state_name(k),), {"magnitude": float(at.magnitude[k]), "lost": float(lost[k]) * EPS},
        )  # fmt: skip


def _kinks(layout: Layout, at: Linearization) -> Iterator[Finding]:
    for row, name in kinked(at)[:SHOWN]:
        rule = PRIMITIVES[OPCODE[name]].rule
        yield Finding(
            "kink", NOTE, f"constraint {layout.row_name(row)} sits on a kink of {name}; its derivative: {rule}.",
            (layout.row_name(row),), (layout.state_name(row),),
        )  # fmt: skip


def _bounds(layout: Layout, v: Floats) -> Iterator[Finding]:
    if not layout.lower.size:
        return
    u = v[layout.m :]
    for side, bound in (("lower", layout.lower), ("upper", layout.upper)):
        room = AT_BOUND * np.maximum(np.abs(bound), layout.scale)
        for k in np.flatnonzero(np.isfinite(bound) & (np.abs(u - bound) <= room))[:SHOWN].tolist():
            yield Finding(
                "at_bound", NOTE,
                f"state {layout.state_name(k)} = {u[k]:.6g} is at its {side} bound {bound[k]:.6g}.",
                (), (layout.state_name(k),), {"value": float(u[k]), "bound": float(bound[k])},
            )  # fmt: skip
