"""Writes from the table of primitives what must not be typed twice: the kernels' dispatch, and its document.

    python -m lagrad.assembly.generate    rewrites dispatch.py, flat_sweeps.py and docs/primitives.md

Takes the table. Gives text; a test holds the committed files to it. Knows no programs and runs no kernel.

The dispatch comes in pairs: a *tape* function runs one instance of a template through registers
`reg[register]`, a *block* function runs `width` instances at once through `reg[register, instance]`, with the
loop over instances inside the branch of each opcode. Both are written from the same lines, so both round
alike. The sweeps run flat code (`assembly.flat`), group by group, again on the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from lagrad.expr.primitives import COMMON_END, FLAT_START, OPCODE, PRIMITIVES, Primitive

Lines = list[str]

# The second-order functions have branches for these opcodes and a call for the others: with branches for all
# the common opcodes they take 8.2 s to compile instead of 3.6 s.
POLYNOMIAL_END = OPCODE["square"] + 1

SELECT = re.compile(r"1\.0 if (.+) else 0\.0")
ATOM = re.compile(r"[\w.]+(\([^()]*\))?")
# What the kernels call for these functions of the table, and where a whole register of a block goes through at once.
ELEMENTARY = {"math.sin": "sine", "math.cos": "cosine", "math.exp": "exponential"}
BLOCK_VALUES = {"sin": "block_sine", "cos": "block_cosine", "exp": "block_exponential"}
BLOCK_PARTIALS = {"sin": "block_sine_partial", "cos": "block_cosine_partial"}
ARRAY_VALUES = {"sin": "sines", "cos": "cosines", "exp": "exponentials"}
ARRAY_PARTIALS = {"sin": ("cosines", ""), "cos": ("sines", "-")}
SPECIAL = ("digamma", "expit", "logaddexp", "polygamma2", "polygamma3", "sech2", "trigamma")

HEADER = '''\
"""Kernels that run one template's tape; `python -m lagrad.assembly.generate` writes them from the table.

Takes flat arrays of opcodes, argument registers and register values. Knows no rows, families or sparsity.

A template's registers are its leaves, then its constants, then one for each operation in order. The
operations of all templates lie one after the other in `op`, `arg_a`, `arg_b`; a template owns `start:stop`
of them, and operation t writes register `out + t - start`. The `arg_b` of a unary operation has no
influence, but is a valid register. Adjoints are of the last register: the caller has set its adjoint to 1
and all others to 0.

    op        (operations,) opcode, the index in PRIMITIVES           integer
    arg_a     (operations,) register of the first argument            int32
    arg_b     (operations,) register of the second argument           int32
    reg       (registers,) values; in a block (registers, >= width)   float64
    adj       like reg: derivative of the last register by each register, the adjoint
    tan       like reg: derivative of each register in one direction, the tangent
    adj_tan   like reg: derivative of each adjoint in that direction

An adjoint of exactly 0 passes nothing on, whatever the partial: an unselected branch may be infinite or nan.
"""
'''


FLAT_HEADER = '''\
"""Kernels that run flat code; `python -m lagrad.assembly.generate` writes them from the table.

Takes the groups of operations of a `FlatCode` (see `assembly.flat`) and one value or adjoint per slot. Knows no
rows, states or parameters.

    level_ptr   (levels+1,) into groups
    group_ptr   (groups+1,) into operations
    group_op    (groups,) opcode, the index in PRIMITIVES; SUM for a sum of products with constants
    group_form  (groups,) where the operands of a group lie:
                0 anywhere; 1 both in consecutive slots; 2 the first in one slot, the second in consecutive ones;
                3 the first in consecutive slots, the second in one
    arg_a       (operations,) slot of the first operand; of a SUM its first place in args
    arg_b       (operations,) slot of the second operand; of a SUM the number of its places
    args, coefs (places,) slot and coefficient of a summand
    reg         (slots,) values: inputs, constants, and from `base` on operations, in order
    adj         (slots,) adjoints
    bits        reg or adj again, as int64
    spare       (2, WIDTH) scratch

A group's operations do not depend on each other, and a level's neither. An adjoint of exactly 0 passes nothing on,
whatever the partial: an unselected branch may be infinite or nan.
"""
'''

# ------------------------------------------------------------------------------------------------------------
# Pieces of text
# ------------------------------------------------------------------------------------------------------------


def product(factor: str, source: str, guard: bool = False) -> str:
    """The product of a factor and the partial `source`, as text; "" where it is 0 by the table.

    A selecting partial gives the factor or exactly 0 without a product, so that 0 * inf never arises from it.
    With `guard`, a factor of 0 gives 0 also where the partial is infinite.
    """
    if source == "0.0":
        return ""
    if source in ("1.0", "-1.0"):
        return source.replace("1.0", factor)
    selection = SELECT.fullmatch(source)
    if selection:
        return f"{factor} if {selection[1]} else 0.0"
    times = f"{factor} * {source}" if ATOM.fullmatch(source) else f"{factor} * ({source})"
    return f"0.0 if {factor} == 0.0 else {times}" if guard else times


def total(terms: list[str]) -> str:
    """The sum of some terms, as text."""
    return " + ".join(terms).replace("+ -", "- ")


def add_to(target: str, term: str) -> Lines:
    """The statement that adds `term` to `target`; none for an empty term."""
    if not term:
        return []
    return [f"{target} -= {term[1:]}" if term.startswith("-") else f"{target} += {term}"]


def place(array: str, register: str, block: bool) -> str:
    """An element of a register array: of the instance at hand, or of instance i of the block."""
    return f"{array}[{register}, i]" if block else f"{array}[{register}]"


def indent(lines: Iterable[str], depth: int = 1) -> Lines:
    """`lines`, moved right by `depth` levels."""
    return ["    " * depth + line if line else line for line in lines]


def in_block(lines: Lines) -> Lines:
    """`lines` for each instance of a block, after loading the elements that they mention."""
    loads = {"a": "reg[x, i]", "b": "reg[y, i]", "r": "reg[o, i]", "ta": "tan[x, i]", "tb": "tan[y, i]"}
    loads |= {"w": "adj[o, i]", "wt": "adj_tan[o, i]"}
    text = "\n".join(lines)
    needed = [f"{name} = {element}" for name, element in loads.items() if re.search(rf"\b{name}\b", text)]
    return ["for i in range(width):", *indent([*needed, *lines])]


def branches(bodies: dict[int, Lines], last: Lines) -> Lines:
    """if k == …: body, elif …; neighbours with the same body share a branch. `last` ends the chain."""
    groups: list[tuple[list[int], Lines]] = []
    for opcode, body in bodies.items():
        if groups and groups[-1][1] == body:
            groups[-1][0].append(opcode)
        elif body:
            groups.append(([opcode], body))
    lines: Lines = []
    for opcodes, body in groups:
        test = " or ".join(f"k == {opcode}" for opcode in opcodes)
        names = ", ".join(PRIMITIVES[opcode].name for opcode in opcodes)
        lines += [f"{'elif' if lines else 'if'} {test}:  # {names}", *indent(body)]
    return [*lines, *last]


def function(head: str, doc: Lines, body: Lines) -> Lines:
    """A function with its docstring: inlined where it takes arrays, called where it takes numbers."""
    decorator = "@inlined" if head.startswith(("tape", "block")) else "@internal"
    quoted = [f'"""{doc[0]}"""'] if len(doc) == 1 else [f'"""{doc[0]}', "", *doc[1:], '"""']
    return ["", "", decorator, f"def {head}:", *indent([*quoted, *body])]


# ------------------------------------------------------------------------------------------------------------
# One opcode's lines, for a tape and for a block alike
# ------------------------------------------------------------------------------------------------------------


def value_lines(primitive: Primitive, block: bool) -> Lines:
    """r = f(a, b)."""
    return [f"{'reg[o, i]' if block else 'r'} = {primitive.value}"]


def partial_lines(primitive: Primitive, block: bool) -> Lines:
    """adj[x] += w f_a, adj[y] += w f_b. A tape has left out w = 0 already."""
    lines: Lines = []
    for register, source in zip("xy", primitive.partials, strict=False):
        lines += add_to(place("adj", register, block), product("w", source, guard=block))
    return lines


def changes(sources: Iterable[str]) -> list[str]:
    """The terms of the change, in the direction (ta, tb), of a function whose partials are `sources`."""
    return [t for t in map(product, ("ta", "tb"), sources) if t]


def tangent_lines(primitive: Primitive, block: bool) -> Lines:
    """tan[o] = ta f_a + tb f_b."""
    return [f"{place('tan', 'o', block)} = {total(changes(primitive.partials))}"]


def second_rows(primitive: Primitive) -> list[tuple[str, list[str]]]:
    """For each argument its partial f_x, and the terms of the change of that in the direction (ta, tb)."""
    if primitive.arity == 1:
        return [(primitive.partials[0], changes(primitive.seconds))]
    faa, fab, fbb = primitive.seconds
    return list(zip(primitive.partials, (changes((faa, fab)), changes((fab, fbb))), strict=True))


def second_lines(primitive: Primitive, block: bool) -> Lines:
    """The tangent of `partial_lines`: adj_tan[x] += wt f_a + w (ta f_aa + tb f_ab), and so for y."""
    lines: Lines = []
    for register, (partial, terms) in zip("xy", second_rows(primitive), strict=False):
        lines += add_to(place("adj", register, block), product("w", partial, guard=True))
        lines += add_to(place("adj_tan", register, block), product("wt", partial, guard=True))
        if terms:
            lines += add_to(place("adj_tan", register, block), product("w", total(terms), guard=True))
    return lines


# ------------------------------------------------------------------------------------------------------------
# The opcodes without a branch of their own
# ------------------------------------------------------------------------------------------------------------


def rare_functions() -> Lines:
    """The functions for the opcodes without a branch of their own: compiled once, called by the others."""

    def assign(name: str, terms: list[str]) -> Lines:
        if not terms or terms[0] == "0.0":
            return []
        return [f"{name} = {terms[0]}", *(line for term in terms[1:] for line in add_to(name, term))]

    def chain(begin: int, end: int, names: str, lines_of: Callable[[Primitive], Lines]) -> Lines:
        rare = {k: lines_of(PRIMITIVES[k]) for k in range(begin, end)}
        return [*(f"{name} = 0.0" for name in names.split()), *branches(rare, [])]

    def gains(primitive: Primitive, factors: tuple[str, ...], terms: bool) -> Lines:
        rows = second_rows(primitive)
        if any(SELECT.fullmatch(partial) for partial, _ in rows):
            names = [gain + argument for gain in "gh"[: len(factors)] for argument in "ab"]
            selected = [product(factor, partial) or "0.0" for factor in factors for partial, _ in rows]
            assigned = [f"{name} = {term}" for name, term in zip(names, selected, strict=True)]
            return [*assigned, f"return {', '.join(names)}"]
        lines: Lines = []
        for argument, (partial, change) in zip("ab", rows, strict=False):
            lines += assign(f"f{argument}", [partial]) + (assign(f"d{argument}", change) if terms else [])
        return lines

    value = chain(COMMON_END, len(PRIMITIVES), "r", lambda p: assign("r", [p.value]))
    partials = [
        *chain(COMMON_END, FLAT_START, "fa fb", lambda p: gains(p, ("w",), False)),
        "ga = 0.0 if w == 0.0 else w * fa",
        "gb = 0.0 if w == 0.0 else w * fb",
        "return ga, gb",
    ]
    tangent = chain(POLYNOMIAL_END, FLAT_START, "d", lambda p: assign("d", changes(p.partials)))
    seconds = [
        *chain(POLYNOMIAL_END, FLAT_START, "fa da fb db", lambda p: gains(p, ("w", "wt"), True)),
        *partials[-3:-1],
        "ha = (0.0 if wt == 0.0 else wt * fa) + (0.0 if w == 0.0 else w * da)",
        "hb = (0.0 if wt == 0.0 else wt * fb) + (0.0 if w == 0.0 else w * db)",
        "return ga, gb, ha, hb",
    ]
    told = "of an opcode that has no branch of its own"
    gained = f"What the arguments {told} gain in"
    return [
        *function("rare_value(k, a, b)", [f"The value r {told}."], [*value, "return r"]),
        *function("rare_partials(k, a, b, r, w)", [f"{gained} adj[x], adj[y]."], partials),
        *function("rare_tangent(k, a, b, r, ta, tb)", [f"The tangent {told}."], [*tangent, "return d"]),
        *function("rare_seconds(k, a, b, r, ta, tb, w, wt)", [f"{gained} adj and adj_tan."], seconds),
    ]


def rare_value_branch(block: bool) -> Lines:
    """The last branch of tape_values and block_values."""
    if block:
        return ["else:", *indent(in_block(["reg[o, i] = rare_value(k, a, b)"]))]
    return ["else:", "    r = rare_value(k, a, b)"]


def rare_partials_branch(block: bool) -> Lines:
    """The last branch of tape_partials and block_partials. Flat opcodes pass nothing on."""
    lines = [
        "ga, gb = rare_partials(k, a, b, r, w)",
        *add_to(place("adj", "x", block), "ga"),
        *add_to(place("adj", "y", block), "gb"),
    ]
    return [f"elif k < {FLAT_START}:", *indent(in_block(lines) if block else lines)]


def rare_tangent_branch(block: bool) -> Lines:
    """The last branches of the forward sweep in tape_seconds and block_seconds."""
    lines = [f"{place('tan', 'o', block)} = rare_tangent(k, a, b, r, ta, tb)"]
    flat = [f"{place('tan', 'o', block)} = 0.0"]
    if block:
        lines, flat = in_block(lines), in_block(flat)
    return [f"elif k < {FLAT_START}:", *indent(lines), "else:", *indent(flat)]


def rare_seconds_branch(block: bool) -> Lines:
    """The last branch of the reverse sweep in tape_seconds and block_seconds."""
    lines = ["ga, gb, ha, hb = rare_seconds(k, a, b, r, ta, tb, w, wt)"]
    for array, gains in (("adj", ("ga", "gb")), ("adj_tan", ("ha", "hb"))):
        for register, gain in zip("xy", gains, strict=True):
            lines += add_to(place(array, register, block), gain)
    return [f"elif k < {FLAT_START}:", *indent(in_block(lines) if block else lines)]


# ------------------------------------------------------------------------------------------------------------
# The six functions
# ------------------------------------------------------------------------------------------------------------

OPERANDS = ["x = arg_a[t]", "y = arg_b[t]", "k = np.int64(op[t])"]
REGISTERS = ["a = reg[x]", "b = reg[y]", "r = reg[o]"]
TANGENTS = ["ta = tan[x]", "tb = tan[y]"]
BLOCK_DOC = "The twin of `tape_{}` for instances 0 … width - 1 of a block."


def chain(lines_of: Callable[[Primitive, bool], Lines], end: int, last: Lines, block: bool) -> Lines:
    """A branch for each opcode before `end`, and `last` for the others."""
    bodies = {k: lines_of(PRIMITIVES[k], block) for k in range(end)}
    if not block:
        return branches(bodies, last)
    whole = {k: whole_register(PRIMITIVES[k].name, lines_of) for k in bodies}
    return branches({k: whole[k] or in_block(body) for k, body in bodies.items()}, last)


def whole_register(name: str, lines_of: Callable[[Primitive, bool], Lines]) -> Lines:
    """The call that does a register of a block at once, for the functions of `elementary`; else nothing."""
    if lines_of is value_lines and name in BLOCK_VALUES:
        return [f"{BLOCK_VALUES[name]}(reg, x, o, width)"]
    if lines_of is partial_lines and name in BLOCK_PARTIALS:
        return [f"{BLOCK_PARTIALS[name]}(reg, adj, x, o, width)"]
    return []


def forward(body: Lines) -> Lines:
    """`body` for the operations from first to last."""
    return ["for t in range(start, stop):", *indent(body)]


def backward(body: Lines) -> Lines:
    """`body` for the operations from last to first."""
    return ["for t in range(stop - 1, start - 1, -1):", *indent(body)]


def values_functions() -> Lines:
    """tape_values and block_values."""
    # Unsigned indices need no test for counting from the end: a tenth of the time of a short tape.
    tape = [
        "a = reg[np.uint64(arg_a[t])]",
        "b = reg[np.uint64(arg_b[t])]",
        "k = np.int64(op[t])",
        *chain(value_lines, COMMON_END, rare_value_branch(False), False),
        "reg[np.uint64(out + t - start)] = r",
    ]
    block = ["o = out + t - start", *OPERANDS, *chain(value_lines, COMMON_END, rare_value_branch(True), True)]
    doc = ["Fill the registers from `out` on; the leaves and constants before them are given."]
    arguments = "op, arg_a, arg_b, start, stop, out"
    return [
        *function(f"tape_values({arguments}, reg)", doc, forward(tape)),
        *function(f"block_values({arguments}, width, reg)", [BLOCK_DOC.format("values")], forward(block)),
    ]


def partials_functions() -> Lines:
    """tape_partials and block_partials."""
    tape = [
        "o = out + t - start",
        "w = adj[o]",
        "if w == 0.0:",
        "    continue",
        *OPERANDS,
        *REGISTERS,
        *chain(partial_lines, COMMON_END, rare_partials_branch(False), False),
    ]
    branched = chain(partial_lines, COMMON_END, rare_partials_branch(True), True)
    block = ["o = out + t - start", *OPERANDS, *branched]
    doc = ["Accumulate the adjoints of all registers; `reg` is what `tape_values` left."]
    arguments = "op, arg_a, arg_b, start, stop, out"
    return [
        *function(f"tape_partials({arguments}, reg, adj)", doc, backward(tape)),
        *function(
            f"block_partials({arguments}, width, reg, adj)", [BLOCK_DOC.format("partials")], backward(block)
        ),
    ]


def seconds_functions() -> Lines:
    """tape_seconds and block_seconds: two loops each, the tangents forward and all adjoints backward."""
    written: Lines = []
    for block in (False, True):
        registers = [] if block else [*REGISTERS, *TANGENTS]
        skip = ["w = adj[o]", "wt = adj_tan[o]", "if w == 0.0 and wt == 0.0:", "    continue"]
        tangents = chain(tangent_lines, POLYNOMIAL_END, rare_tangent_branch(block), block)
        seconds = chain(second_lines, POLYNOMIAL_END, rare_seconds_branch(block), block)
        body = [
            *forward(["o = out + t - start", *OPERANDS, *registers, *tangents]),
            *backward(["o = out + t - start", *([] if block else skip), *OPERANDS, *registers, *seconds]),
        ]
        doc = [
            "Tangents of all registers, then the adjoints and their tangents.",
            "Given are all of `reg`, `tan` of the leaves and constants, `adj` as for `tape_partials`, and",
            "`adj_tan`, all 0. Then `adj_tan` of the leaves is the Hessian of the last register times `tan`.",
        ]
        name = "block_seconds" if block else "tape_seconds"
        width = "width, " if block else ""
        head = f"{name}(op, arg_a, arg_b, start, stop, out, {width}reg, tan, adj, adj_tan)"
        written += function(head, [BLOCK_DOC.format("seconds")] if block else doc, body)
    return written


def dispatch_text() -> str:
    """The text of lagrad/assembly/dispatch.py."""
    lines = [
        "",
        "import math",
        "",
        "import numpy as np",
        "",
        "from lagrad.assembly.elementary import (",
        *(
            f"    {name},"
            for name in sorted((*BLOCK_VALUES.values(), *BLOCK_PARTIALS.values(), *ELEMENTARY.values()))
        ),
        ")",
        f"from lagrad.assembly.special import {', '.join(SPECIAL)}",
        "from lagrad.kernel import inlined, internal",
    ]
    kernels = [*rare_functions(), *values_functions(), *partials_functions(), *seconds_functions()]
    called = "\n".join(kernels)
    for name, ours in ELEMENTARY.items():
        called = called.replace(f"{name}(", f"{ours}(")
    return HEADER + "\n".join(lines) + "\n" + called + "\n"


# ------------------------------------------------------------------------------------------------------------
# The sweeps over flat code
# ------------------------------------------------------------------------------------------------------------

SUM = len(PRIMITIVES)  # the opcode of a sum of products with constants, which only flat code has
# Where the domain of derivatives ends at a finite value: sqrt of the common ones, and these. Division by 0 is none.
RARE_EDGES = tuple(k for k in range(COMMON_END, FLAT_START) if PRIMITIVES[k].domain != "True")
ELEMENTS = {"a": "reg[x]", "b": "reg[y]", "r": "reg[o]"}
# (form, element of the first operand, of the second) of a group whose operands are in order
FORMS = ((1, "left[i]", "right[i]"), (2, "left[0]", "right[i]"), (3, "left[i]", "right[0]"))


def mentioned(lines: Lines, elements: dict[str, str]) -> Lines:
    """The assignments of those of `elements` that `lines` mention."""
    text = "\n".join(lines)
    return [f"{name} = {element}" for name, element in elements.items() if re.search(rf"\b{name}\b", text)]


def gathered(lines: Lines, backward: bool) -> Lines:
    """`lines` for each operation of a group whose operands lie anywhere."""
    used = {"x": "np.uint64(arg_a[t])", "y": "np.uint64(arg_b[t])"}
    loads = mentioned(lines, ELEMENTS if backward else {"a": "reg[x]", "b": "reg[y]"})
    slots = mentioned([*loads, *lines], used)
    if not backward:
        return ["for t in range(start, stop):", *indent([*slots, *loads, *lines, "reg[base + t] = r"])]
    skip = ["o = base + t", "w = adj[o]", "if w == 0.0:", "    continue"]
    return ["for t in range(stop - 1, start - 1, -1):", *indent([*skip, *slots, *loads, *lines])]


def in_order(primitive: Primitive, left: str, right: str, backward: bool) -> Lines:
    """A group whose operands are in order, as array arithmetic; operands of one slot add up in a scalar."""
    elements = {"a": left, "b": right, "r": "out[i]"}
    if not backward:
        value = [f"out[i] = {primitive.value}"]
        edge = ["edge = edge or any_zero(out)"] if primitive.name == "sqrt" else []
        return ["for i in range(size):", *indent([*mentioned(value, elements), *value]), *edge]
    lines: Lines = []
    for target, source, element in zip(
        ("to_left", "to_right"), primitive.partials, (left, right), strict=False
    ):
        term = product("w", source, guard=True)
        fixed = element.endswith("[0]")
        body = add_to("total" if fixed else f"{target}[i]", term)
        loop = ["for i in range(size):", "    w = own[i]", *indent([*mentioned(body, elements), *body])]
        if fixed:
            # a constant needs no adjoint
            lines += [f"if {target[3:]}_slot < inputs or {target[3:]}_slot >= base:", "    total = 0.0"]
            lines += [*indent(loop), f"    {target}[0] += total"]
        else:
            lines += loop
    return lines


def many(primitive: Primitive, ordered: bool, backward: bool) -> Lines:
    """A group of one of the functions of `elementary` that take arrays; nothing for other primitives."""
    name = primitive.name
    if name not in (ARRAY_PARTIALS if backward else ARRAY_VALUES):
        return []
    called, sign = ARRAY_PARTIALS[name] if backward else (ARRAY_VALUES[name], "")
    if ordered and not backward:
        return [f"{called}(left, out)"]
    if ordered:
        passed = "take_off" if sign else "pass_on"
        return [
            "for lo in range(0, size, WIDTH):",
            "    hi = lo + WIDTH if lo + WIDTH < size else size",
            f"    {called}(left[lo:hi], spare[1, : hi - lo])",
            f"    {passed}(own[lo:hi], spare[1, : hi - lo], to_left[lo:hi])",
        ]
    gather = ["hi = lo + WIDTH if lo + WIDTH < stop else stop", "for t in range(lo, hi):"]
    gather.append("    spare[0, t - lo] = reg[np.uint64(arg_a[t])]")
    if not backward:
        run = [f"{called}(spare[0, : hi - lo], reg[base + lo : base + hi])"]
    else:
        run = [f"{called}(spare[0, : hi - lo], spare[1, : hi - lo])", "for t in range(lo, hi):"]
        run += ["    w = adj[base + t]", "    if w != 0.0:"]
        run.append(f"        adj[np.uint64(arg_a[t])] += w * {sign}spare[1, t - lo]")
    return ["for lo in range(start, stop, WIDTH):", *indent([*gather, *run])]


def flat_branches(backward: bool) -> Lines:
    """The branches of a group by form and opcode."""
    bodies: dict[int, Lines] = {}
    for k in range(COMMON_END):
        p = PRIMITIVES[k]
        lines = partial_lines(p, False) if backward else value_lines(p, False)
        if not backward and p.name == "sqrt":
            lines.append("edge = edge or r == 0.0")
        bodies[k] = many(p, False, backward) or gathered(lines, backward)
    if backward:
        gains = ["ga, gb = rare_partials(k, a, b, r, w)", "adj[x] += ga", "adj[y] += gb"]
        rare = [f"elif k < {FLAT_START}:", *indent(gathered(gains, True))]
        sums = [
            "for u in range(arg_a[t], arg_a[t] + arg_b[t]):",
            "    adj[np.uint64(args[u])] += w * coefs[u]",
        ]
        last = [*rare, f"elif k == {SUM}:  # a sum", *indent(gathered(sums, True))]
    else:
        # the identity of addition is -0.0: a sum of one summand keeps its sign
        sums = ["r = -0.0 if arg_b[t] > 0 else 0.0", "for u in range(arg_a[t], arg_a[t] + arg_b[t]):"]
        sums += ["    r += coefs[u] * reg[np.uint64(args[u])]"]
        rare = gathered(["r = rare_value(k, a, b)"], False)
        edgy = gathered(["r = rare_value(k, a, b)", "edge = edge or rare_edge(k, a, b)"], False)
        last = [f"elif k == {SUM}:  # a sum", *indent(gathered(sums, False))]
        tests = [f"k == {k}" for k in RARE_EDGES]
        test = [f"    {tests[0]}", *(f"    or {test}" for test in tests[1:])]
        last += ["elif (", *test, "):", *indent(edgy)]
        last += ["else:", *indent(rare)]
    lines = ["if form == 0:", *indent(branches(bodies, last)), "    continue", *PARTS]
    if backward:
        lines += [*slices("adj", "to_left", "to_right"), "own = adj[base + start : base + stop]"]
    for form, left, right in FORMS:
        arity = {1: (1, 2), 2: (2,), 3: (2,)}[form]
        ordered = {
            k: many(PRIMITIVES[k], True, backward) or in_order(PRIMITIVES[k], left, right, backward)
            for k in range(COMMON_END)
            if PRIMITIVES[k].arity in arity
        }
        lines += [f"{'if' if form == 1 else 'elif'} form == {form}:", *indent(branches(ordered, []))]
    return lines


def slices(array: str, left: str, right: str) -> Lines:
    """The parts of an array that the operands of a group in order occupy."""
    return [
        f"{left} = {array}[left_slot : left_slot + (1 if form == 2 else size)]",
        f"{right} = {array}[right_slot : right_slot + (1 if form == 3 else size)]",
    ]


GROUP = [
    "k = np.int64(group_op[g])",
    "form = group_form[g]",
    "start = np.int64(group_ptr[g])",
    "stop = np.int64(group_ptr[g + 1])",
]
PARTS = [
    "size = stop - start",
    "left_slot, right_slot = np.int64(arg_a[start]), np.int64(arg_b[start])",
    *slices("reg", "left", "right"),
    "out = reg[base + start : base + stop]",
]


def sweep_functions() -> Lines:
    """flat_values and flat_adjoints."""
    look = ["if base + start - done >= CHUNK:", "    wrong |= exponents(bits[done : base + start])"]
    forward = [
        "wrong = np.int64(0)",
        "edge = False",
        "done = base + np.int64(group_ptr[0])",
        "for g in range(group_op.size):",
        *indent([*GROUP, *look, "    done = base + start", *flat_branches(False)]),
        "wrong |= exponents(bits[done : base + group_ptr[group_op.size]])",
        "return wrong & NOT_FINITE == 0, not edge",
    ]
    reverse = [
        "wrong = np.int64(0)",
        "touched = 0.0",
        "low = base + np.int64(group_ptr[level_ptr[level_ptr.size - 1]])",
        "for level in range(level_ptr.size - 2, -1, -1):",
        *indent(
            [
                "first, last = np.int64(level_ptr[level]), np.int64(level_ptr[level + 1])",
                "bottom, top = base + np.int64(group_ptr[first]), base + np.int64(group_ptr[last])",
                "# the operands of the levels to come: the first touch of a cache line would be a random one, which",
                "# no hardware foresees",
                "while low > max(0, bottom - AHEAD):",
                "    low = max(0, low - LINE)",
                "    touched += reg[low] + adj[low]",
                "some = exponents(bits[bottom:top])",
                "wrong |= some",
                "if some <= 1:  # all of them 0, or subnormal",
                "    some = magnitudes(bits[bottom:top])",
                "    if some == 0:",
                "        continue",
                "for g in range(last - 1, first - 1, -1):",
                *indent([*GROUP, *flat_branches(True)]),
                "if clear:",
                "    adj[bottom:top] = 0.0",
            ]
        ),
        "return wrong & NOT_FINITE == 0, touched",
    ]
    helpers = [
        *function(
            "exponents(bits)",
            ["1 + exponent of all floats with these bits, or-ed together."],
            [
                "some = np.int64(0)",
                "for i in range(bits.size):",
                "    some |= ((bits[i] >> 52) & 0x7FF) + 1",
                "return some",
            ],
        ),
        *function(
            "magnitudes(bits)",
            ["All bits but the sign, or-ed together."],
            [
                "some = np.int64(0)",
                "for i in range(bits.size):",
                "    some |= bits[i] & 0x7FFFFFFFFFFFFFFF",
                "return some",
            ],
        ),
        *function(
            "any_zero(x)",
            ["Whether one of them is 0."],
            ["found = False", "for i in range(x.size):", "    found |= x[i] == 0.0", "return found"],
        ),
        *function(
            "rare_edge(k, a, b)",
            ["Whether the arguments of one of these opcodes lie outside the domain of its derivatives."],
            [
                "inside = True",
                *branches({k: [f"inside = {PRIMITIVES[k].domain}"] for k in RARE_EDGES}, []),
                "return not inside",
            ],
        ),
    ]
    arguments = "level_ptr, group_ptr, group_op, group_form, arg_a, arg_b, args, coefs"
    forward_doc = [
        "Fill `reg` from `base` on; the slots before are given. Some of the groups fill their part.",
        "",
        "Whether all values are finite, and whether all are inside the domains of derivatives: at the edge of one, as",
        "sqrt at 0, an adjoint of 0 may be one side of 0 · ∞.",
    ]
    reverse_doc = [
        "Add to the adjoints of the inputs what those of the operations pass on; whether all are finite. With some of",
        "the levels, only theirs.",
        "",
        "Given are adjoints of some slots, all others 0. The adjoints of operations are 0 again afterwards if `clear`;",
        "those of constants (slots from `inputs` to `base`) are left as they come. Ignore the second number.",
    ]
    return [
        "",
        "",
        "AHEAD = 4096  # slots that are touched before they are needed: 12.6 -> 5.0 ns per operation at a million",
        "LINE = 8  # slots of a cache line",
        "WIDTH = 256  # operands that are gathered for functions of whole arrays",
        "CHUNK = 2048  # values are looked at while they are in the nearest cache",
        "NOT_FINITE = 0x800  # what one more makes of the exponent of inf and nan",
        *helpers,
        *written("flat_values", f"{arguments}, base, reg, bits, spare", forward_doc, forward),
        *written(
            "flat_adjoints", f"{arguments}, inputs, base, reg, adj, bits, spare, clear", reverse_doc, reverse
        ),
    ]


def written(name: str, arguments: str, doc: Lines, body: Lines) -> Lines:
    """A kernel, its arguments on a line of their own."""
    quoted = [f'"""{doc[0]}"""'] if len(doc) == 1 else [f'"""{doc[0]}', *doc[1:], '"""']
    return [
        "",
        "",
        "@kernel",
        f"def {name}(",
        f"    {arguments},",
        "):  # fmt: skip",
        *indent([*quoted, *body]),
    ]


def sweeps_text() -> str:
    """The text of lagrad/assembly/flat_sweeps.py."""
    lines = [
        "",
        "import math",
        "",
        "import numpy as np",
        "",
        "from lagrad.assembly.dispatch import rare_partials, rare_value",
        f"from lagrad.assembly.elementary import {', '.join(sorted((*ARRAY_VALUES.values(), 'pass_on', 'take_off')))}",
        "from lagrad.kernel import internal, kernel",
        *sweep_functions()[1:],
    ]
    return FLAT_HEADER + "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------
# The document
# ------------------------------------------------------------------------------------------------------------

PREFACE = """# Primitives

Written by `python -m lagrad.assembly.generate` from the table in `lagrad/expr/primitives.py`; do not edit.

`a` and `b` are the arguments and `r` is the value. Where a function is not differentiable, lagrad takes one
one-sided derivative and says which. Outside the domain the value or a partial is inf or nan, which a
certificate reports; nothing is clipped.

| opcode | name | value | derivatives | domain | not differentiable where | derivative taken there |
|---|---|---|---|---|---|---|
"""


def document_text() -> str:
    """The text of docs/primitives.md."""
    rows = []
    for opcode, p in enumerate(PRIMITIVES):
        domain = "" if p.domain == "True" else f"`{p.domain}`"
        kink = "" if p.kink == "False" else f"`{p.kink}`"
        partials = ", ".join(f"`{source}`" for source in p.partials)
        rows.append(f"| {opcode} | {p.name} | `{p.value}` | {partials} | {domain} | {kink} | {p.rule} |\n")
    return PREFACE + "".join(rows)


def targets(root: Path) -> dict[Path, str]:
    """Path and text of every generated file under the repository's root."""
    return {
        root / "lagrad" / "assembly" / "dispatch.py": dispatch_text(),
        root / "lagrad" / "assembly" / "flat_sweeps.py": sweeps_text(),
        root / "docs" / "primitives.md": document_text(),
    }


def main() -> None:
    """Write the generated files into the repository that this module lies in."""
    for path, text in targets(Path(__file__).resolve().parents[2]).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
