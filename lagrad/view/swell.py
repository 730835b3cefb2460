"""Expression swell: what a derivative costs as one closed formula, and what as a derivative program.

Takes a program that can be run in order, gives counts of operations. In the closed form every intermediate value is
written out wherever it is used, as in a formula on paper; SymPy differentiates it. The derivative program is the
one that `adjoint_source` writes. Evaluates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from lagrad.errors import ComparisonError, DeclarationError
from lagrad.expr.graph import CONSTANT, LINEAR, PARAMETER, STATE
from lagrad.expr.symbolic import node_sympy, partial, symbol
from lagrad.expr.walk import fold, operands
from lagrad.numbers import check_kind
from lagrad.program import Program
from lagrad.view import python_source
from lagrad.view.essay import Block, adjoint_source, influential_blocks

LARGEST: Final = 5_000  # operations of a closed form that SymPy is asked to differentiate: some seconds


@dataclass(frozen=True)
class Swell:
    """Operations that a value and its derivatives by all parameters take, as formulas and as programs.

    value_formula       the value, every intermediate value written out wherever it is used
    derivative_formula  the derivatives, each SymPy's closed form; None where it was not asked (`LARGEST`)
    value_program       the program, forwards
    derivative_program  the program and its multipliers: the value and all derivatives
    derivatives         {scalar parameter: SymPy's closed form}
    """

    output: str
    value_formula: int
    derivative_formula: int | None
    value_program: int
    derivative_program: int
    derivatives: dict[str, Any] = field(repr=False)


def expression_swell(program: Program, output: str | None = None) -> Swell:
    """Count the operations of closed forms and of the derivative program of a scalar output.

    `output` is a state or definition of a program that can be run in order; the last scalar definition if left
    out. Raises `ComparisonError` for an implicit or cyclic program, which has no closed form.

    >>> import lagrad as lg
    >>> program = lg.Program("product")
    >>> x = program.parameter("x", 3.0)
    >>> y = program.define("y", x * lg.sin(x))
    >>> lg.expression_swell(program)
    Swell(output='y', value_formula=2, derivative_formula=4, value_program=2, derivative_program=7)
    """
    check_kind("expression_swell", program, Program)
    if output is None:
        scalars = [item.name for item in program.states.items if item.defined and not item.shape]
        if not scalars:
            raise DeclarationError("expression_swell", "there is no scalar definition.", "Name an output.")
        output = scalars[-1]
    index = program.states.scalar_index(output, "state or definition")
    blocks = influential_blocks(program, index)
    if not all(block.explicit for block in blocks):
        raise ComparisonError("expression_swell", "an implicit or cyclic program has no closed form.")
    size = _written_out(program, blocks)[index]
    derivatives = _closed_forms(program, blocks, index) if size <= LARGEST else {}
    forwards, backwards = _operations_of(adjoint_source(program, output))
    return Swell(
        output,
        size,
        sum(int(d.count_ops()) for d in derivatives.values()) if size <= LARGEST else None,
        forwards,
        forwards + backwards,
        derivatives,
    )


def _operations_of(source: str) -> tuple[int, int]:
    """Operations of a derivative program, forwards and backwards."""
    body = [line.strip() for line in source.split("\n") if line.startswith("    ")]
    middle = next(k for k, line in enumerate(body) if line.startswith("# the multipliers"))
    halves = "\n".join(body[:middle]), "\n".join(body[middle:])
    return python_source.operations(halves[0]), python_source.operations(halves[1])


def _written_out(program: Program, blocks: list[Block]) -> dict[int, int]:
    """Operations of every state as a formula of the parameters alone."""
    graph = program.graph
    sizes: dict[int, int] = {}

    def size(node: int, below: Any) -> int:
        code, a = graph.code[node], graph.a[node]
        if code in (CONSTANT, PARAMETER):
            return 0
        if code == STATE:
            return sizes[a]
        total = sum(below[k] for k in operands(graph, node))
        if code != LINEAR:
            return total + 1
        coefs = graph.coefs[a : a + graph.b[node]]
        return total + max(0, len(coefs) - 1) + sum(abs(c) != 1.0 for c in coefs)

    for block in blocks:
        sizes[block.states[0]] = fold(graph, block.formulas[0], size)
    return sizes


def _closed_forms(program: Program, blocks: list[Block], output: int) -> dict[str, Any]:
    """The derivative of the output by every parameter that it mentions, as one formula each."""
    closed: dict[Any, Any] = {}
    for block in blocks:
        formula = node_sympy(program.graph, block.formulas[0])
        closed[symbol(program.state_name(block.states[0]))] = formula.xreplace(closed)
    value = closed[symbol(program.state_name(output))]
    present = {s.name for s in value.free_symbols}
    names = (program.parameter_name(k) for k in range(program.parameters.size))
    return {name: partial(value, name) for name in names if name in present}
