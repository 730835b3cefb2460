"""AC power flow of any MATPOWER case file, with the sensitivity of the whole grid to every injection.

    python examples/power_flow.py                              the 9-bus case beside this file
    python examples/power_flow.py path/to/case9241pegase.m     any other

Given the demand of every bus, the output of every generator and the voltage that generators hold, find the
voltage (magnitude, angle) of every bus such that what enters each bus leaves it again over the branches. One
bus, the reference or slack, takes up what is left: the losses. All buses depend on all others: one large
cyclic block.

Units: parameters Pd, Pg in MW, Qd, Qg in MVAr, v_set in per unit, va_ref in radians; states vm in per unit,
va in radians; the constraints are in per unit of baseMVA; outputs slack_P, loss in MW, slack_Q, Qgen in MVAr.

A case file is read as data, and nothing in it is run: assignments of numbers are read, the unit conversions
that distribution cases end with are known by their text, and any other statement that would change what is
read here is refused. Model of a branch (pi section, tap ratio, phase shift), bus types, several generators at
a bus and which of their set points holds: MATPOWER User's Manual, chapters 3 and 4. DC lines and limits take
no part.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

import lagrad as lg
from lagrad.errors import ModelFileError

CASE9 = Path(__file__).parent / "data" / "case9.m"

# MATPOWER 8, t/soln9_pf.mat: solution of the case shipped here (bus order of the file; angles in degrees),
# and the sensitivities by the bus number of the demand, per MW.
EXPECTED = {
    "vm": [
        1,
        1,
        1,
        0.9870068523919053,
        0.975472177085053,
        1.0033754364528003,
        0.9856448817249466,
        0.9961852458090698,
        0.957621040429904,
    ],
    "va_deg": [
        0,
        9.668741126628127,
        4.771073237177321,
        -2.406643919519411,
        -4.01726432670755,
        1.9256016868285664,
        0.6215445553889333,
        3.7991201926923224,
        -4.34993357656101,
    ],
    "slack_P": 71.9547015892219,
    "slack_Q": 24.068957772759347,
    "dslack_P/dPd": {5: 1.010686645147929, 7: 0.965861128769797, 9: 1.0100887191783365},
}

# Columns of the tables (MATPOWER User's Manual, appendix B), counted from 0.
BUS_I, BUS_TYPE, PD, QD, GS, BS, VM, VA, BASE_KV = 0, 1, 2, 3, 4, 5, 7, 8, 9
GEN_BUS, PG, QG, VG, GEN_STATUS = 0, 1, 2, 5, 7
F_BUS, T_BUS, BR_R, BR_X, BR_B, TAP, SHIFT, BR_STATUS = 0, 1, 2, 3, 4, 8, 9, 10
PQ, PV, REF, ISOLATED = 1, 2, 3, 4


@dataclass(frozen=True)
class Case:
    """The tables of a case file as they stand there."""

    name: str
    base_mva: float
    bus: np.ndarray  # (buses, >= 13)
    gen: np.ndarray  # (generators, >= 8)
    branch: np.ndarray  # (branches, >= 11)


# -- reading a case file -------------------------------------------------------------------------------------

_SKIP = re.compile(r"^[ \t]*%\{[ \t]*$.*?^[ \t]*%\}[ \t]*$|'[^'\n]*'|%[^\n]*|\.\.\.[^\n]*\n", re.M | re.S)
_ASSIGNMENT = re.compile(
    r"(?:^|[;,\n])[ \t]*(?P<target>[A-Za-z]\w*(?:\.\w+)?)[ \t]*(?P<index>\([^)\n]*\))?[ \t]*=(?!=)"
    r"[ \t]*(?P<value>\[[^\]]*\]|\{[^}]*\}|[^;\n]*)"
)
_CONTROL = re.compile(r"^[ \t]*(?:if|for|while|switch|try)\b", re.M)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUOTIENT = re.compile(rf"({_NUMBER})(?:/(?:({_NUMBER})|sqrt\(({_NUMBER})\)))?")  # 100, 50/3, 135/sqrt(3)
_WIDTH = {"bus": 13, "gen": 8, "branch": 11}  # columns that a table must have (format versions 1 and 2)


def read_case(path: str | Path) -> Case:
    """The tables of a MATPOWER case file, version 1 or 2. Nothing in the file is run.

    Raises `ModelFileError` where the file is not such data: it says in which table or statement, and why.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as problem:
        raise ModelFileError(str(path), None, f"cannot be read: {problem.strerror}.") from problem
    text = _SKIP.sub(lambda m: "''" if m[0].startswith("'") else " ", text)
    header = re.search(r"^\s*function\s+(\w+)\s*=", text)
    prefix = header[1] + "." if header else ("mpc." if "mpc.bus" in text else "")
    control = _CONTROL.search(text)
    first_control = control.start() if control else len(text)

    tables: dict[str, np.ndarray] = {}
    base: float | None = None
    helpers: dict[str, str] = {}  # right-hand sides of everything that is not a table, as text without blanks
    for m in _ASSIGNMENT.finditer(text):
        target, index, value = m["target"], m["index"], m["value"].strip()
        statement = f"{target}{index or ''} = {value}"
        name = target.removeprefix(prefix)
        if target == prefix[:-1]:
            raise _refused(path, target, statement)
        if not target.startswith(prefix) or name not in ("bus", "gen", "branch", "baseMVA"):
            if index is None:
                helpers[target] = re.sub(r"\s", "", value)
            continue
        tail = text[m.end() :].split("\n", 1)[0].strip()
        if index is not None:
            _convert(path, prefix, name, statement, tables, base, helpers, m.start() > first_control)
        elif name in tables or (name == "baseMVA" and base is not None) or m.start() > first_control:
            raise _refused(path, target, statement)
        elif name == "baseMVA":
            base = _number(re.sub(r"\s", "", value))
            if base is None:
                raise _refused(path, target, statement)
        elif not value.startswith("[") or tail[:1] not in ("", ";", ","):
            raise _refused(path, target, statement + tail)
        else:
            tables[name] = _numbers(path, target, value[1:-1])
    for name in ("baseMVA", "bus", "gen", "branch"):
        if (base is None) if name == "baseMVA" else (name not in tables):
            raise ModelFileError(
                str(path), prefix + name, "is not there.", advice="A MATPOWER case file assigns it numbers."
            )
    if base is None or not base > 0:
        raise ModelFileError(str(path), prefix + "baseMVA", f"must be a positive number, not {base}.")
    return Case(path.stem, base, tables["bus"], tables["gen"], tables["branch"])


def _refused(path: Path, entry: str, statement: str) -> ModelFileError:
    return ModelFileError(
        str(path),
        entry,
        "is computed by a statement that is not known here, and nothing in a case file is run.",
        excerpt=statement if len(statement) <= 100 else statement[:97] + "...",
        advice="Write the resulting numbers into the file (MATPOWER's savecase does).",
    )


def _numbers(path: Path, table: str, body: str) -> np.ndarray:
    """The rows of a matrix between its brackets."""
    rows = [row.split() for row in body.replace(",", " ").replace(";", "\n").split("\n")]
    rows = [row for row in rows if row]
    width = len(rows[0]) if rows else _WIDTH[table.rpartition(".")[2]]
    for k, row in enumerate(rows):
        if len(row) != width:
            reason = f"row {k + 1} has {len(row)} numbers where the first row has {width}."
            raise ModelFileError(str(path), table, reason, excerpt=" ".join(row)[:100])
    if width < _WIDTH[table.rpartition(".")[2]]:
        reason = f"has {width} columns; the format needs at least {_WIDTH[table.rpartition('.')[2]]}."
        raise ModelFileError(str(path), table, reason)
    try:
        return np.array(rows, dtype=float).reshape(len(rows), width)
    except ValueError:
        values = [[_number(word) for word in row] for row in rows]
    for k, numbers in enumerate(values):
        if None in numbers:
            reason = f"row {k + 1} holds {rows[k][numbers.index(None)][:60]!r}, which is not a number."
            raise ModelFileError(str(path), table, reason)
    return np.array(values, dtype=float)


def _number(word: str) -> float | None:
    """A number, or a quotient of two as some files write them; None for anything else."""
    quotient = _QUOTIENT.fullmatch(word)
    if quotient is None:
        return float(word) if word.lower().lstrip("+-") in ("inf", "nan") else None
    divisor = float(quotient[2]) if quotient[2] else float(quotient[3] or 1) ** 0.5
    return float(quotient[1]) / divisor if divisor else None


def _convert(
    path: Path,
    prefix: str,
    name: str,
    statement: str,
    tables: dict[str, np.ndarray],
    base: float | None,
    helpers: dict[str, str],
    conditional: bool,
) -> None:
    """Apply one of the unit conversions that distribution case files end with, known by its text."""
    text = re.sub(r"\s", "", statement).replace(prefix, "")
    if name == "gen" and re.match(r"gen\(\w+,(PMAX|PMIN|QMAX|QMIN)\)=", text):
        return  # limits take no part in a power flow
    if name not in tables or base is None or conditional:
        raise _refused(path, prefix + name, statement)
    table = tables[name]
    ohms = (
        helpers.get("Vbase") == f"{prefix}bus(1,BASE_KV)*1e3"
        and helpers.get("Sbase") == f"{prefix}baseMVA*1e6"
    )
    if text == "branch(:,[BR_RBR_X])=branch(:,[BR_RBR_X])/(Vbase^2/Sbase)" and ohms and "bus" in tables:
        table[:, [BR_R, BR_X]] /= tables["bus"][0, BASE_KV] ** 2 / base  # ohms to per unit: kV^2/MVA
    elif text == "bus(:,[PD,QD])=bus(:,[PD,QD])/1e3":
        table[:, [PD, QD]] /= 1e3  # kW to MW
    elif text == "bus(:,QD)=bus(:,PD)*sin(acos(pf))" and re.fullmatch(_NUMBER, helpers.get("pf", "")):
        table[:, QD] = table[:, PD] * np.sin(np.arccos(float(helpers["pf"])))  # kVA at a power factor to kvar
    elif text == "bus(:,PD)=bus(:,PD)*pf" and re.fullmatch(_NUMBER, helpers.get("pf", "")):
        table[:, PD] *= float(helpers["pf"])
    else:
        raise _refused(path, prefix + name, statement)


# -- from tables to a grid -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """What is in service, buses counted 0..n-1 in the order of the file."""

    number: np.ndarray  # (n,) bus numbers of the file
    ref: np.ndarray  # buses that hold angle and magnitude
    pv: np.ndarray  # buses that hold their magnitude
    pq: np.ndarray  # the other buses
    gen: np.ndarray  # rows of the gen table in service
    gen_bus: np.ndarray  # their buses
    v_set: np.ndarray  # (n,) magnitude held, or the guess for it, per unit
    f: np.ndarray  # (branches,) from-bus of each branch in service
    t: np.ndarray  # (branches,) to-bus
    y_ff: np.ndarray  # (branches,) complex: current into the branch at f = y_ff V_f + y_ft V_t, per unit
    y_ft: np.ndarray
    y_tf: np.ndarray  # current into the branch at t = y_tf V_f + y_tt V_t
    y_tt: np.ndarray


def make_grid(case: Case) -> Grid:
    """Which buses, generators and branches take part, and the pi sections of the branches.

    Raises `ModelFileError` on data that is no grid: unknown or repeated bus numbers, a branch without
    impedance, no generator to be the reference, buses that no branch in service connects to a reference.
    """

    def refuse(entry: str, reason: str, advice: str = "") -> None:
        raise ModelFileError(case.name, entry, reason, advice=advice)

    for table, columns in (
        ("bus", [BUS_I, BUS_TYPE, PD, QD, GS, BS, VM, VA]),
        ("gen", [GEN_BUS, PG, QG, VG, GEN_STATUS]),
        ("branch", [F_BUS, T_BUS, BR_R, BR_X, BR_B, TAP, SHIFT, BR_STATUS]),
    ):
        bad = np.flatnonzero(~np.isfinite(getattr(case, table)[:, columns]).all(axis=1))
        if len(bad):
            refuse(table, f"row {bad[0] + 1} holds a number that is not finite.")
    number = case.bus[:, BUS_I].astype(np.int64)
    n = len(number)
    if n == 0:
        refuse("bus", "has no rows.")
    order = np.argsort(number, kind="stable")
    twice = number[order][1:][np.diff(number[order]) == 0]
    if len(twice):
        refuse("bus", f"bus number {twice[0]} is there twice.")

    def place(numbers: np.ndarray, entry: str) -> np.ndarray:
        at = order[np.searchsorted(number[order], numbers).clip(max=n - 1)]
        unknown = np.flatnonzero(number[at] != numbers)
        if len(unknown):
            refuse(
                entry,
                f"row {unknown[0] + 1} is at bus {numbers[unknown[0]]:.0f}, which table bus does not have.",
            )
        return at

    gen = np.flatnonzero(case.gen[:, GEN_STATUS] > 0)
    gen_bus = place(case.gen[:, GEN_BUS], "gen")[gen]
    branch = case.branch
    f, t = place(branch[:, F_BUS], "branch"), place(branch[:, T_BUS], "branch")
    on = branch[:, BR_STATUS] != 0
    branch, f, t = branch[on], f[on], t[on]

    has_gen = np.zeros(n, dtype=bool)
    has_gen[gen_bus] = True
    kind = case.bus[:, BUS_TYPE]
    ref = np.flatnonzero((kind == REF) & has_gen)
    pv = np.flatnonzero((kind == PV) & has_gen)
    pq = np.flatnonzero((kind == PQ) | (~has_gen & (kind != ISOLATED)))
    if len(ref) == 0:
        ref, pv = pv[:1], pv[1:]
    if len(ref) == 0:
        refuse("gen", "no generator in service stands at a bus of type 2 or 3: nothing can be the reference.")

    _, island = connected_components(sp.coo_matrix((np.ones(len(f)), (f, t)), shape=(n, n)), directed=False)
    alone = number[(kind == ISOLATED) | ~np.isin(island, island[ref])]
    if len(alone):
        names = ", ".join(str(b) for b in alone[:6]) + (
            f" and {len(alone) - 6} more" if len(alone) > 6 else ""
        )
        refuse(
            "bus",
            f"isolated: no branch in service connects bus {names} to a reference bus.",
            "Take these buses out, put a branch into service, or give one with a generator type 3.",
        )

    v_set = case.bus[:, VM].copy()
    holds = np.isin(gen_bus, np.concatenate([ref, pv]))
    v_set[gen_bus[holds]] = case.gen[gen[holds], VG]  # where several stand at a bus, the last row counts

    z = branch[:, BR_R] + 1j * branch[:, BR_X]
    if len(z) and not abs(z).min() > 0:
        k = int(np.argmin(abs(z)))
        refuse(
            "branch",
            f"the branch from bus {number[f[k]]} to bus {number[t[k]]} has no impedance (r = x = 0).",
            "Give it a small reactance, or make its two buses one.",
        )
    tap = np.where(branch[:, TAP] == 0, 1.0, branch[:, TAP]) * np.exp(1j * np.deg2rad(branch[:, SHIFT]))
    y_tt = 1 / z + 0.5j * branch[:, BR_B]
    return Grid(
        number=number,
        ref=ref,
        pv=pv,
        pq=pq,
        gen=gen,
        gen_bus=gen_bus,
        v_set=v_set,
        f=f,
        t=t,
        y_ff=y_tt / abs(tap) ** 2,
        y_ft=-1 / (z * tap.conj()),
        y_tf=-1 / (z * tap),
        y_tt=y_tt,
    )


# -- the program ---------------------------------------------------------------------------------------------


def build(case: Case | str | Path = CASE9, flows: bool = False, currents: bool = False) -> lg.Program:
    """The power flow of a case: polar voltages, power balance at every bus.

    With n buses, of which r are references and c = r + pv hold their voltage: parameters Pd, Qd (n,), Pg, Qg
    (generators in service,), v_set (c,), va_ref (r,); states va (n - r,) and vm (n - c,), each in the order
    of the file; constraints "active" (n - r,) and "reactive" (n - c,): power flowing out over branches and
    shunts == power generated less power demanded. Their multipliers are therefore the change of an output per
    unit of power injected at the bus. With `flows`, also the definitions Pf, Qf, Pt, Qt (branches in
    service,): what enters each branch at its two ends, MW and MVAr. With `currents` the same balances are written
    over named intermediate values: definitions e, f (n,), the voltages V = e + j f, and a, b (n,), the currents
    I = a + j b = Y V into the grid; the power leaving a bus is then V conj(I).
    """
    case = case if isinstance(case, Case) else read_case(case)
    grid = make_grid(case)
    n, base = len(grid.number), case.base_mva
    held = np.sort(np.concatenate([grid.ref, grid.pv]))
    free = np.sort(np.concatenate([grid.pv, grid.pq]))
    ref, pq = grid.ref, grid.pq

    program = lg.Program(case.name)
    demand_p = program.parameter("Pd", case.bus[:, PD])
    demand_q = program.parameter("Qd", case.bus[:, QD])
    generation_p = program.parameter("Pg", case.gen[grid.gen, PG])
    generation_q = program.parameter("Qg", case.gen[grid.gen, QG])
    v_set = program.parameter("v_set", grid.v_set[held])
    va_ref = program.parameter("va_ref", np.deg2rad(case.bus[ref, VA]))
    va = program.state("va", guess=np.deg2rad(case.bus[free, VA]))
    vm = program.state("vm", guess=case.bus[pq, VM])

    # Every bus's angle and magnitude, whether a parameter holds it or a state stands for it.
    angle = lg.concatenate([va_ref, va])[np.argsort(np.concatenate([ref, free]))]
    magnitude = lg.concatenate([v_set, vm])[np.argsort(np.concatenate([held, pq]))]

    # Power entering each branch at its ends: S_f = V_f conj(y_ff V_f + y_ft V_t), and the same at t.
    v_f, v_t = magnitude[grid.f], magnitude[grid.t]
    delta = angle[grid.f] - angle[grid.t]
    product, cos, sin = v_f * v_t, lg.cos(delta), lg.sin(delta)
    p_f = grid.y_ff.real * v_f**2 + product * (grid.y_ft.real * cos + grid.y_ft.imag * sin)
    q_f = -grid.y_ff.imag * v_f**2 + product * (grid.y_ft.real * sin - grid.y_ft.imag * cos)
    p_t = grid.y_tt.real * v_t**2 + product * (grid.y_tf.real * cos - grid.y_tf.imag * sin)
    q_t = -grid.y_tt.imag * v_t**2 - product * (grid.y_tf.real * sin + grid.y_tf.imag * cos)

    # Power leaving each bus over its branches and its shunt: sums over incidence matrices (buses, branches).
    branches, gens = len(grid.f), len(grid.gen)
    from_bus = sp.csr_matrix((np.ones(branches), (grid.f, np.arange(branches))), shape=(n, branches))
    to_bus = sp.csr_matrix((np.ones(branches), (grid.t, np.arange(branches))), shape=(n, branches))
    at_bus = sp.csr_matrix((np.ones(gens), (grid.gen_bus, np.arange(gens))), shape=(n, gens))
    if currents:
        shunt = sp.diags_array((case.bus[:, GS] + 1j * case.bus[:, BS]) / base)
        y_f, y_t = sp.diags_array(grid.y_ff) @ from_bus.T, sp.diags_array(grid.y_tt) @ to_bus.T
        y_f = y_f + sp.diags_array(grid.y_ft) @ to_bus.T
        y_t = y_t + sp.diags_array(grid.y_tf) @ from_bus.T
        admittance = sp.csr_array(from_bus @ y_f + to_bus @ y_t + shunt)
        e = program.define("e", magnitude * lg.cos(angle))
        f = program.define("f", magnitude * lg.sin(angle))
        a = program.define("a", admittance.real @ e - admittance.imag @ f)
        b = program.define("b", admittance.real @ f + admittance.imag @ e)
        leaving_p, leaving_q = e * a + f * b, f * a - e * b
    else:
        leaving_p = from_bus @ p_f + to_bus @ p_t + case.bus[:, GS] / base * magnitude**2
        leaving_q = from_bus @ q_f + to_bus @ q_t - case.bus[:, BS] / base * magnitude**2

    net_p = (at_bus @ generation_p - demand_p) / base
    net_q = (at_bus @ generation_q - demand_q) / base
    program.constrain(leaving_p[free] == net_p[free], name="active")
    program.constrain(leaving_q[pq] == net_q[pq], name="reactive")

    slack = program.define("slack_P", lg.sum(base * leaving_p[ref] + demand_p[ref]))
    program.define("slack_Q", lg.sum(base * leaving_q[ref] + demand_q[ref]))
    program.define("Qgen", base * leaving_q[held] + demand_q[held])
    elsewhere = generation_p[np.flatnonzero(~np.isin(grid.gen_bus, ref))]
    program.define("loss", slack + lg.sum(elsewhere) - lg.sum(demand_p))  # network and shunts
    program.define("flat_distance", lg.sum(magnitude**2 - 2 * magnitude * lg.cos(angle) + 1))  # sum |V - 1|^2
    if flows:
        for name, flow in (("Pf", p_f), ("Qf", q_f), ("Pt", p_t), ("Qt", q_t)):
            program.define(name, base * flow)
    return program


def voltages(case: Case, solution: lg.Solution) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude (per unit) and angle (radians) of every bus, in the order of the file."""
    grid = make_grid(case)
    magnitude, angle = grid.v_set.copy(), np.deg2rad(case.bus[:, VA])
    magnitude[grid.pq] = solution["vm"]
    angle[np.sort(np.concatenate([grid.pv, grid.pq]))] = solution["va"]
    return magnitude, angle


def main(path: str | Path = CASE9) -> None:
    """Solve the case and print voltages, losses, and what one more MW at each bus costs."""
    case = read_case(path)
    solution = lg.build(build(case)).solve()
    magnitude, angle = voltages(case, solution)
    cost = solution.gradient("slack_P")["Pd"]
    n, shown = len(case.bus), 12
    print(f"{case.name}: {n} buses, {len(case.gen)} generators, {len(case.branch)} branches")
    print(
        f"slack {solution['slack_P']:.4f} MW, {solution['slack_Q']:.4f} MVAr; "
        f"losses {solution['loss']:.4f} MW\n"
    )
    print("     bus   |V| p.u.   angle deg     demand MW   d(slack MW)/d(demand MW)")
    for i in np.sort(np.argsort(-abs(cost - 1), kind="stable")[:shown]):
        print(
            f"{case.bus[i, BUS_I]:8.0f} {magnitude[i]:10.5f} {np.rad2deg(angle[i]):11.4f} "
            f"{case.bus[i, PD] + 0.0:13.3f} {cost[i]:14.6f}"
        )
    if n > shown:
        print(f"(the {shown} buses furthest from 1 MW per MW, of {n})")
    dearest = int(np.argmax(cost))
    print(
        f"\nOne more MW of demand at bus {case.bus[dearest, BUS_I]:.0f} makes the slack generator give "
        f"{cost[dearest]:.4f} MW: the rest is lost on the way."
    )
    largest = np.abs(solution.multipliers("slack_P")["active"]).max()
    print(
        "The multiplier of a bus's active balance says the same per unit: the change of slack_P\n"
        f"per unit of power injected there (largest {largest:.3f} MW per {case.base_mva:g} MW)."
    )


if __name__ == "__main__":
    main(*sys.argv[1:2])
