"""THE table of primitives: the one place where a function of one or two numbers is told to lagrad.

Takes nothing. Gives `PRIMITIVES`, in order of opcode, and `OPCODE`, the opcode of each name. Evaluation,
partials, array evaluation, the SymPy view, printing, the documents and the tests all read this table. It
knows no expression nodes and no matrices, and holds sources as text: neither NumPy nor Numba nor SymPy is
imported.

How the sources are read. `a` and `b` are the arguments and `r` is the value already computed. Kernel sources
(`value`, `partials`, `seconds`, `kink`, `domain`) see `math`, `np` and the functions of
`lagrad.assembly.special`; `numpy` sees `np` and `sp` (`scipy.special`); `sympy` sees `sympy`. Two spellings
carry meaning for a reader that multiplies a partial with an adjoint w:

- `"0.0"`                  the argument has no influence: no product is formed at all;
- `"1.0 if C else 0.0"`    the argument is *selected* when C holds: the product is w or exactly 0, also when w
                           is infinite. A branch that is not selected therefore never makes nan of inf * 0.

The order is the order of the opcodes: the common ones, for which the kernels have branches of their own, then
the others, and last the flat ones, whose partials are zero wherever they exist. Opcodes are no part of any
file format; names are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Interval = tuple[float, float]

# How tightly a printed form holds together, loosest first; the same ladder as Python's.
COMPARE, SUM, PRODUCT, SIGN, POWER, ATOM = 1, 2, 3, 4, 5, 6

NO_KINK: Final = "False"
EVERYWHERE: Final = "True"
LINE: Final[tuple[Interval, ...]] = ((-3.0, 3.0),)
POSITIVE: Final[tuple[Interval, ...]] = ((0.05, 4.0),)
NONZERO: Final[tuple[Interval, ...]] = ((-3.0, -0.1), (0.1, 3.0))


@dataclass(frozen=True)
class Primitive:
    """One function of one or two real numbers, and everything that lagrad knows of it.

    name        how it is called everywhere: in messages, in model files, in `OPCODE`
    arity       1 or 2
    value       kernel source of the value r
    partials    kernel source of the derivative by each argument, `arity` of them
    seconds     kernel sources (f_aa,) or (f_aa, f_ab, f_bb)
    numpy       array source; broadcasts as NumPy does
    sympy       SymPy source, for arguments that are real
    ufuncs      names of the NumPy ufuncs that mean this primitive
    scipy       names in scipy.special that mean it
    format      text with `{a}`, `{b}`; the text can be parsed back where model files allow the name
    latex       the same in LaTeX
    precedence  how tightly the text holds together (COMPARE … ATOM)
    binds       the precedence that each operand needs to stand without parentheses in `format`
    latex_binds the same for `latex`
    kink        kernel source: true where the function is defined and not differentiable
    rule        which derivative is chosen there, one-sided, as a sentence; empty where `kink` is never true
    domain      kernel source: true where value and partials are finite reals (rounding and overflow apart)
    sample      for each argument, the intervals from which tests draw it
    """

    name: str
    arity: int
    value: str
    partials: tuple[str, ...]
    seconds: tuple[str, ...]
    numpy: str
    sympy: str
    ufuncs: tuple[str, ...]
    scipy: tuple[str, ...]
    format: str
    latex: str
    precedence: int
    binds: tuple[int, ...]
    latex_binds: tuple[int, ...]
    kink: str
    rule: str
    domain: str
    sample: tuple[tuple[Interval, ...], ...]

    @property
    def flat(self) -> bool:
        """True when no argument has an influence on the value that a derivative could see."""
        return all(source == "0.0" for source in self.partials)


def _primitive(
    name: str,
    value: str,
    partials: tuple[str, ...],
    seconds: tuple[str, ...],
    numpy: str,
    sympy: str,
    *,
    ufuncs: tuple[str, ...] | None = None,
    scipy: tuple[str, ...] = (),
    format: str | None = None,
    latex: str | None = None,
    precedence: int = ATOM,
    binds: tuple[int, ...] | None = None,
    latex_binds: tuple[int, ...] | None = None,
    kink: str = NO_KINK,
    rule: str = "",
    domain: str = EVERYWHERE,
    sample: tuple[tuple[Interval, ...], ...] | None = None,
) -> Primitive:
    """A `Primitive`: unless told, a call `name(a, b)` of the ufunc of that name, defined everywhere."""
    arity = len(partials)
    arguments = "{a}" if arity == 1 else "{a}, {b}"
    loose = (0,) * arity
    return Primitive(
        name=name,
        arity=arity,
        value=value,
        partials=partials,
        seconds=seconds,
        numpy=numpy,
        sympy=sympy,
        ufuncs=(name,) if ufuncs is None else ufuncs,
        scipy=scipy,
        format=f"{name}({arguments})" if format is None else format,
        latex=_latex_call(rf"\operatorname{{{name}}}", arity) if latex is None else latex,
        precedence=precedence,
        binds=loose if binds is None else binds,
        latex_binds=(loose if binds is None else binds) if latex_binds is None else latex_binds,
        kink=kink,
        rule=rule,
        domain=domain,
        sample=(LINE,) * arity if sample is None else sample,
    )


def _latex_call(operator: str, arity: int) -> str:
    """`operator` applied to arguments, as a template for `str.format`: its own braces are doubled."""
    arguments = "{a}" if arity == 1 else "{a}, {b}"
    return operator.replace("{", "{{").replace("}", "}}") + rf"\left({arguments}\right)"


def _truth(condition: str) -> str:
    """Kernel source of 1 where `condition` holds, else 0."""
    return f"1.0 if {condition} else 0.0"


def _piecewise(condition: str) -> str:
    """SymPy source of 1 where `condition` holds, else 0."""
    return f"sympy.Piecewise((1, {condition}), (0, True))"


FLAT1, FLAT2 = ("0.0",), ("0.0", "0.0")
ZEROS3 = ("0.0", "0.0", "0.0")
JUMP = "the value jumps; the derivative is taken as 0"

COMMON: Final[tuple[Primitive, ...]] = (
    _primitive(
        "add",
        "a + b",
        ("1.0", "1.0"),
        ZEROS3,
        "a + b",
        "a + b",
        format="{a} + {b}",
        latex="{a} + {b}",
        precedence=SUM,
        binds=(SUM, PRODUCT),
    ),
    _primitive(
        "sub",
        "a - b",
        ("1.0", "-1.0"),
        ZEROS3,
        "a - b",
        "a - b",
        ufuncs=("subtract",),
        format="{a} - {b}",
        latex="{a} - {b}",
        precedence=SUM,
        binds=(SUM, PRODUCT),
    ),
    _primitive(
        "mul",
        "a * b",
        ("b", "a"),
        ("0.0", "1.0", "0.0"),
        "a * b",
        "a * b",
        ufuncs=("multiply",),
        format="{a} * {b}",
        latex=r"{a} \, {b}",
        precedence=PRODUCT,
        binds=(PRODUCT, SIGN),
        latex_binds=(PRODUCT, POWER),
    ),
    _primitive(
        "div",
        "a / b",
        ("1.0 / b", "-r * (1.0 / b)"),  # one division for both
        ("0.0", "-1.0 / (b * b)", "2.0 * r / (b * b)"),
        "a / b",
        "a / b",
        ufuncs=("divide", "true_divide"),
        format="{a} / {b}",
        latex=r"\frac{{{a}}}{{{b}}}",
        precedence=PRODUCT,
        binds=(PRODUCT, SIGN),
        latex_binds=(0, 0),
        domain="b != 0.0",
        sample=(LINE, NONZERO),
    ),
    _primitive(
        "neg",
        "-a",
        ("-1.0",),
        FLAT1,
        "-a",
        "-a",
        ufuncs=("negative",),
        format="-{a}",
        latex="-{a}",
        precedence=SIGN,
        binds=(SIGN,),
        latex_binds=(PRODUCT,),
    ),
    _primitive(
        "square",
        "a * a",
        ("2.0 * a",),
        ("2.0",),
        "a * a",
        "a**2",
        format="{a}**2",
        latex="{a}^{{2}}",
        precedence=POWER,
        binds=(ATOM,),
    ),
    _primitive(
        "reciprocal",
        "1.0 / a",
        ("-r * r",),
        ("2.0 * r * r * r",),
        "1.0 / a",
        "1/a",
        format="1 / {a}",
        latex=r"\frac{{1}}{{{a}}}",
        precedence=PRODUCT,
        binds=(SIGN,),
        latex_binds=(0,),
        domain="a != 0.0",
        sample=(NONZERO,),
    ),
    _primitive(
        "sqrt",
        "math.sqrt(a)",
        ("0.5 / r",),
        ("-0.25 / (a * r)",),
        "np.sqrt(a)",
        "sympy.sqrt(a)",
        latex=r"\sqrt{{{a}}}",
        domain="a > 0.0",
        sample=(POSITIVE,),
    ),
    _primitive(
        "sin",
        "math.sin(a)",
        ("math.cos(a)",),
        ("-r",),
        "np.sin(a)",
        "sympy.sin(a)",
        latex=_latex_call(r"\sin", 1),
    ),
    _primitive(
        "cos",
        "math.cos(a)",
        ("-math.sin(a)",),
        ("-r",),
        "np.cos(a)",
        "sympy.cos(a)",
        latex=_latex_call(r"\cos", 1),
    ),
    _primitive(
        "exp",
        "math.exp(a)",
        ("r",),
        ("r",),
        "np.exp(a)",
        "sympy.exp(a)",
        latex="e^{{{a}}}",
        precedence=ATOM,
        latex_binds=(0,),
    ),
)

OTHERS: Final[tuple[Primitive, ...]] = (
    _primitive(
        "log",
        "math.log(a)",
        ("1.0 / a",),
        ("-1.0 / (a * a)",),
        "np.log(a)",
        "sympy.log(a)",
        latex=_latex_call(r"\ln", 1),
        domain="a > 0.0",
        sample=(POSITIVE,),
    ),
    # The exponent is a constant: a negative base with a whole exponent and the base 0 have their derivatives.
    # The tests of b keep 0 * a**(-1), which is nan at a = 0, out of the exponents 0 and 1.
    _primitive(
        "powc",
        "a**b",
        ("0.0 if b == 0.0 else b * a ** (b - 1.0)", "0.0"),
        ("0.0 if b == 0.0 or b == 1.0 else b * (b - 1.0) * a ** (b - 2.0)", "0.0", "0.0"),
        "np.power(a, b)",
        "a**b",
        ufuncs=(),
        format="{a}**{b}",
        latex="{a}^{{{b}}}",
        precedence=POWER,
        binds=(ATOM, SIGN),
        latex_binds=(ATOM, 0),
        kink="a == 0.0 and b > 1.0 and b != np.floor(b)",
        rule="the domain ends at a = 0; from the right: 0",
        domain="a > 0.0 or (a == 0.0 and (b == 0.0 or b >= 1.0)) or (a < 0.0 and b == np.floor(b))",
        sample=(POSITIVE, LINE),
    ),
    _primitive(
        "abs",
        "abs(a)",
        ("1.0 if a >= 0.0 else -1.0",),
        FLAT1,
        "np.abs(a)",
        "sympy.Abs(a)",
        ufuncs=("absolute", "fabs"),
        latex=r"\left|{a}\right|",
        kink="a == 0.0",
        rule="from the right: +1",
    ),
    # where(c, x, y) is pick(c, x) + picknot(c, y). The condition is a number that is 0 or not; its own jump
    # is the kink of the comparison that made it.
    _primitive(
        "pick",
        "b if a != 0.0 else 0.0",
        ("0.0", "1.0 if a != 0.0 else 0.0"),
        ZEROS3,
        "np.where(a != 0.0, b, 0.0)",
        "sympy.Piecewise((b, sympy.Ne(a, 0)), (0, True))",
        ufuncs=(),
        format="where({a}, {b}, 0)",
        latex=r"\left[{a}\right] {b}",
        latex_binds=(0, ATOM),
        sample=(((0.0, 0.0), (1.0, 1.0)), LINE),
    ),
    _primitive(
        "picknot",
        "b if a == 0.0 else 0.0",
        ("0.0", "1.0 if a == 0.0 else 0.0"),
        ZEROS3,
        "np.where(a == 0.0, b, 0.0)",
        "sympy.Piecewise((b, sympy.Eq(a, 0)), (0, True))",
        ufuncs=(),
        format="where({a}, 0, {b})",
        latex=r"\left[\lnot {a}\right] {b}",
        latex_binds=(ATOM, ATOM),
        sample=(((0.0, 0.0), (1.0, 1.0)), LINE),
    ),
    # a != a lets a nan through, as NumPy does.
    _primitive(
        "minimum",
        "a if a <= b or a != a else b",
        ("1.0 if a <= b or a != a else 0.0", "1.0 if not (a <= b or a != a) else 0.0"),
        ZEROS3,
        "np.minimum(a, b)",
        "sympy.Min(a, b)",
        latex=_latex_call(r"\min", 2),
        kink="a == b",
        rule="a tie goes to the first argument: (1, 0)",
    ),
    _primitive(
        "maximum",
        "a if a >= b or a != a else b",
        ("1.0 if a >= b or a != a else 0.0", "1.0 if not (a >= b or a != a) else 0.0"),
        ZEROS3,
        "np.maximum(a, b)",
        "sympy.Max(a, b)",
        latex=_latex_call(r"\max", 2),
        kink="a == b",
        rule="a tie goes to the first argument: (1, 0)",
    ),
    _primitive(
        "cbrt",
        "np.cbrt(a)",
        ("1.0 / (3.0 * r * r)",),
        ("-2.0 / (9.0 * a * r * r)",),
        "np.cbrt(a)",
        "sympy.sign(a) * sympy.Abs(a) ** sympy.Rational(1, 3)",
        scipy=("cbrt",),
        latex=r"\sqrt[3]{{{a}}}",
        domain="a != 0.0",
        sample=(NONZERO,),
    ),
    _primitive(
        "exp2",
        "np.exp2(a)",
        ("0.6931471805599453 * r",),
        ("0.4804530139182014 * r",),
        "np.exp2(a)",
        "2**a",
        scipy=("exp2",),
        latex="2^{{{a}}}",
        latex_binds=(0,),
    ),
    _primitive(
        "expm1",
        "math.expm1(a)",
        ("math.exp(a)",),
        ("math.exp(a)",),
        "np.expm1(a)",
        "sympy.exp(a) - 1",
        scipy=("expm1",),
    ),
    _primitive(
        "log2",
        "np.log2(a)",
        ("1.4426950408889634 / a",),
        ("-1.4426950408889634 / (a * a)",),
        "np.log2(a)",
        "sympy.log(a) / sympy.log(2)",
        latex=_latex_call(r"\log_{2}", 1),
        domain="a > 0.0",
        sample=(POSITIVE,),
    ),
    _primitive(
        "log10",
        "math.log10(a)",
        ("0.4342944819032518 / a",),
        ("-0.4342944819032518 / (a * a)",),
        "np.log10(a)",
        "sympy.log(a) / sympy.log(10)",
        latex=_latex_call(r"\log_{10}", 1),
        domain="a > 0.0",
        sample=(POSITIVE,),
    ),
    _primitive(
        "log1p",
        "math.log1p(a)",
        ("1.0 / (1.0 + a)",),
        ("-1.0 / ((1.0 + a) * (1.0 + a))",),
        "np.log1p(a)",
        "sympy.log(1 + a)",
        scipy=("log1p",),
        domain="a > -1.0",
        sample=(((-0.9, 3.0),),),
    ),
    _primitive(
        "tan",
        "math.tan(a)",
        ("1.0 + r * r",),
        ("2.0 * r * (1.0 + r * r)",),
        "np.tan(a)",
        "sympy.tan(a)",
        latex=_latex_call(r"\tan", 1),
        sample=(((-1.4, 1.4),),),
    ),
    # 1 - a*a as (1 - a)*(1 + a): no cancellation at the ends of the domain.
    _primitive(
        "arcsin",
        "math.asin(a)",
        ("1.0 / math.sqrt((1.0 - a) * (1.0 + a))",),
        ("a / ((1.0 - a) * (1.0 + a) * math.sqrt((1.0 - a) * (1.0 + a)))",),
        "np.arcsin(a)",
        "sympy.asin(a)",
        latex=_latex_call(r"\arcsin", 1),
        domain="abs(a) < 1.0",
        sample=(((-0.95, 0.95),),),
    ),
    _primitive(
        "arccos",
        "math.acos(a)",
        ("-1.0 / math.sqrt((1.0 - a) * (1.0 + a))",),
        ("-a / ((1.0 - a) * (1.0 + a) * math.sqrt((1.0 - a) * (1.0 + a)))",),
        "np.arccos(a)",
        "sympy.acos(a)",
        latex=_latex_call(r"\arccos", 1),
        domain="abs(a) < 1.0",
        sample=(((-0.95, 0.95),),),
    ),
    _primitive(
        "arctan",
        "math.atan(a)",
        ("1.0 / (1.0 + a * a)",),
        ("-2.0 * a / ((1.0 + a * a) * (1.0 + a * a))",),
        "np.arctan(a)",
        "sympy.atan(a)",
        latex=_latex_call(r"\arctan", 1),
    ),
    _primitive(
        "sinh",
        "math.sinh(a)",
        ("math.cosh(a)",),
        ("r",),
        "np.sinh(a)",
        "sympy.sinh(a)",
        latex=_latex_call(r"\sinh", 1),
    ),
    _primitive(
        "cosh",
        "math.cosh(a)",
        ("math.sinh(a)",),
        ("r",),
        "np.cosh(a)",
        "sympy.cosh(a)",
        latex=_latex_call(r"\cosh", 1),
    ),
    # (1 - r)(1 + r) would be free, but has no digit left where tanh is saturated; the same for r (1 - r) of expit.
    _primitive(
        "tanh",
        "math.tanh(a)",
        ("sech2(a)",),
        ("-2.0 * r * sech2(a)",),
        "np.tanh(a)",
        "sympy.tanh(a)",
        latex=_latex_call(r"\tanh", 1),
    ),
    _primitive(
        "arcsinh",
        "math.asinh(a)",
        ("1.0 / math.hypot(a, 1.0)",),
        ("-a / math.hypot(a, 1.0) / (a * a + 1.0)",),
        "np.arcsinh(a)",
        "sympy.asinh(a)",
    ),
    _primitive(
        "arccosh",
        "math.acosh(a)",
        ("1.0 / (math.sqrt(a - 1.0) * math.sqrt(a + 1.0))",),
        ("-a / (math.sqrt(a - 1.0) * math.sqrt(a + 1.0)) / ((a - 1.0) * (a + 1.0))",),
        "np.arccosh(a)",
        "sympy.acosh(a)",
        domain="a > 1.0",
        sample=(((1.05, 5.0),),),
    ),
    _primitive(
        "arctanh",
        "math.atanh(a)",
        ("1.0 / ((1.0 - a) * (1.0 + a))",),
        ("2.0 * a / ((1.0 - a) * (1.0 + a) * (1.0 - a) * (1.0 + a))",),
        "np.arctanh(a)",
        "sympy.atanh(a)",
        domain="abs(a) < 1.0",
        sample=(((-0.95, 0.95),),),
    ),
    _primitive(
        "erf",
        "math.erf(a)",
        ("1.1283791670955126 * math.exp(-a * a)",),
        ("-2.2567583341910251 * a * math.exp(-a * a)",),
        "sp.erf(a)",
        "sympy.erf(a)",
        ufuncs=(),
        scipy=("erf",),
    ),
    _primitive(
        "erfc",
        "math.erfc(a)",
        ("-1.1283791670955126 * math.exp(-a * a)",),
        ("2.2567583341910251 * a * math.exp(-a * a)",),
        "sp.erfc(a)",
        "sympy.erfc(a)",
        ufuncs=(),
        scipy=("erfc",),
    ),
    _primitive(
        "expit",
        "1.0 / (1.0 + math.exp(-a))",
        ("r * expit(-a)",),
        ("-r * expit(-a) * math.tanh(0.5 * a)",),
        "sp.expit(a)",
        "1 / (1 + sympy.exp(-a))",
        ufuncs=(),
        scipy=("expit",),
        latex=_latex_call(r"\sigma", 1),
    ),
    # ln |Γ(a)|, as scipy.special.gammaln.
    _primitive(
        "gammaln",
        "math.lgamma(a)",
        ("digamma(a)",),
        ("trigamma(a)",),
        "sp.gammaln(a)",
        "sympy.log(sympy.Abs(sympy.gamma(a)))",
        ufuncs=(),
        scipy=("gammaln",),
        latex=r"\ln \left|\Gamma\left({a}\right)\right|",
        domain="a > 0.0 or a != np.floor(a)",
        sample=(((-2.9, -2.1), (-0.9, -0.1), (0.1, 12.0)),),
    ),
    _primitive(
        "digamma",
        "digamma(a)",
        ("trigamma(a)",),
        ("polygamma2(a)",),
        "sp.digamma(a)",
        "sympy.digamma(a)",
        ufuncs=(),
        scipy=("psi", "digamma"),
        latex=_latex_call(r"\psi", 1),
        domain="a > 0.0 or a != np.floor(a)",
        sample=(((-2.9, -2.1), (-0.9, -0.1), (0.1, 12.0)),),
    ),
    _primitive(
        "trigamma",
        "trigamma(a)",
        ("polygamma2(a)",),
        ("polygamma3(a)",),
        "sp.polygamma(1, a)",
        "sympy.polygamma(1, a)",
        ufuncs=(),
        latex=_latex_call(r"\psi^{(1)}", 1),
        domain="a > 0.0 or a != np.floor(a)",
        sample=(((0.1, 12.0),),),
    ),
    # Differentiable in both arguments. lim a**b ln(a) = 0 for a -> 0+ and b > 0.
    _primitive(
        "power",
        "a**b",
        (
            "0.0 if b == 0.0 else b * a ** (b - 1.0)",
            "0.0 if a == 0.0 and b > 0.0 else r * math.log(a)",
        ),
        (
            "0.0 if b == 0.0 or b == 1.0 else b * (b - 1.0) * a ** (b - 2.0)",
            "0.0 if a == 0.0 and b > 1.0 else a ** (b - 1.0) * (1.0 + b * math.log(a))",
            "0.0 if a == 0.0 and b > 0.0 else r * math.log(a) * math.log(a)",
        ),
        "np.power(a, b)",
        "a**b",
        ufuncs=("power", "float_power"),
        format="{a}**{b}",
        latex="{a}^{{{b}}}",
        precedence=POWER,
        binds=(ATOM, SIGN),
        latex_binds=(ATOM, 0),
        kink="a == 0.0 and b >= 1.0",
        rule="the domain ends at a = 0; from the right: (0, 0) for b > 1, (1, 0) for b = 1",
        domain="a > 0.0 or (a == 0.0 and b >= 1.0)",
        sample=(POSITIVE, LINE),
    ),
    _primitive(
        "arctan2",
        "math.atan2(a, b)",
        ("b / math.hypot(a, b) / math.hypot(a, b)", "-a / math.hypot(a, b) / math.hypot(a, b)"),
        (
            "-2.0 * a / math.hypot(a, b) * b / math.hypot(a, b) / math.hypot(a, b) ** 2",
            "(a - b) / math.hypot(a, b) * (a + b) / math.hypot(a, b) / math.hypot(a, b) ** 2",
            "2.0 * a / math.hypot(a, b) * b / math.hypot(a, b) / math.hypot(a, b) ** 2",
        ),
        "np.arctan2(a, b)",
        "sympy.atan2(a, b)",
        kink="a == 0.0 and b < 0.0",
        rule="the value jumps by 2π across the half-line a = 0, b < 0; the derivative is that of both sides",
        domain="a != 0.0 or b != 0.0",
        sample=(NONZERO, NONZERO),
    ),
    # At the origin all three orders are the limits for a -> 0+ along b = 0: r = a.
    _primitive(
        "hypot",
        "math.hypot(a, b)",
        ("a / r if r != 0.0 else 1.0", "b / r if r != 0.0 else 0.0"),
        (
            "(b / r) * (b / r) / r if r != 0.0 else 0.0",
            "-(a / r) * (b / r) / r if r != 0.0 else 0.0",
            "(a / r) * (a / r) / r if r != 0.0 else np.inf",
        ),
        "np.hypot(a, b)",
        "sympy.sqrt(a**2 + b**2)",
        kink="a == 0.0 and b == 0.0",
        rule="from the right along the first argument: (1, 0)",
        sample=(NONZERO, NONZERO),
    ),
    _primitive(
        "logaddexp",
        "logaddexp(a, b)",
        ("expit(a - b)", "expit(b - a)"),
        (
            "expit(a - b) * expit(b - a)",
            "-expit(a - b) * expit(b - a)",
            "expit(a - b) * expit(b - a)",
        ),
        "np.logaddexp(a, b)",
        "sympy.log(sympy.exp(a) + sympy.exp(b))",
    ),
    # The sign of the result is that of b, as in Python. (a - r)/b is floor(a/b) before rounding.
    _primitive(
        "mod",
        "a % b",
        ("1.0", "-np.rint((a - r) / b)"),
        ZEROS3,
        "np.mod(a, b)",
        "a - b * sympy.floor(a / b)",
        ufuncs=("remainder",),
        format="{a} % {b}",
        latex=r"{a} \bmod {b}",
        precedence=PRODUCT,
        binds=(PRODUCT, SIGN),
        kink="b != 0.0 and a % b == 0.0",
        rule="the value jumps where a is a multiple of b; from the side where the value is 0: (1, -a/b)",
        domain="b != 0.0",
        sample=(LINE, NONZERO),
    ),
)

FLAT: Final[tuple[Primitive, ...]] = (
    _primitive(
        "sign",
        "1.0 if a > 0.0 else (-1.0 if a < 0.0 else a)",
        FLAT1,
        FLAT1,
        "np.sign(a)",
        "sympy.sign(a)",
        kink="a == 0.0",
        rule=JUMP,
        sample=(NONZERO,),
    ),
    _primitive(
        "floor",
        "np.floor(a)",
        FLAT1,
        FLAT1,
        "np.floor(a)",
        "sympy.floor(a)",
        latex=r"\left\lfloor{a}\right\rfloor",
        kink="a == np.floor(a)",
        rule=JUMP,
    ),
    _primitive(
        "ceil",
        "np.ceil(a)",
        FLAT1,
        FLAT1,
        "np.ceil(a)",
        "sympy.ceiling(a)",
        latex=r"\left\lceil{a}\right\rceil",
        kink="a == np.floor(a)",
        rule=JUMP,
    ),
    # To the even neighbour at a tie: floor(a + 1/2), less 1 where a + 1/2 is an odd number.
    _primitive(
        "rint",
        "np.rint(a)",
        FLAT1,
        FLAT1,
        "np.rint(a)",
        "sympy.floor(a + sympy.Rational(1, 2))"
        " - sympy.Piecewise((1, sympy.Eq(sympy.Mod(a + sympy.Rational(1, 2), 2), 1)), (0, True))",
        kink="a - np.floor(a) == 0.5",
        rule=JUMP,
    ),
    _primitive(
        "trunc",
        "np.trunc(a)",
        FLAT1,
        FLAT1,
        "np.trunc(a)",
        "sympy.sign(a) * sympy.floor(sympy.Abs(a))",
        kink="a == np.floor(a) and a != 0.0",
        rule=JUMP,
    ),
    _primitive(
        "logical_not",
        _truth("a == 0.0"),
        FLAT1,
        FLAT1,
        "np.logical_not(a) * 1.0",
        _piecewise("sympy.Eq(a, 0)"),
        latex=r"\lnot {a}",
        precedence=ATOM,
        latex_binds=(ATOM,),
        sample=(((0.0, 0.0), (1.0, 1.0)),),
    ),
    _primitive(
        "less",
        _truth("a < b"),
        FLAT2,
        ZEROS3,
        "np.less(a, b) * 1.0",
        _piecewise("a < b"),
        format="{a} < {b}",
        latex="{a} < {b}",
        precedence=COMPARE,
        binds=(SUM, SUM),
        kink="a == b",
        rule=JUMP,
    ),
    _primitive(
        "less_equal",
        _truth("a <= b"),
        FLAT2,
        ZEROS3,
        "np.less_equal(a, b) * 1.0",
        _piecewise("a <= b"),
        format="{a} <= {b}",
        latex=r"{a} \le {b}",
        precedence=COMPARE,
        binds=(SUM, SUM),
        kink="a == b",
        rule=JUMP,
    ),
    _primitive(
        "equal",
        _truth("a == b"),
        FLAT2,
        ZEROS3,
        "np.equal(a, b) * 1.0",
        _piecewise("sympy.Eq(a, b)"),
        latex="{a} = {b}",
        latex_binds=(SUM, SUM),
        kink="a == b",
        rule=JUMP,
    ),
    _primitive(
        "not_equal",
        _truth("a != b"),
        FLAT2,
        ZEROS3,
        "np.not_equal(a, b) * 1.0",
        _piecewise("sympy.Ne(a, b)"),
        latex=r"{a} \ne {b}",
        latex_binds=(SUM, SUM),
        kink="a == b",
        rule=JUMP,
    ),
    _primitive(
        "logical_and",
        _truth("a != 0.0 and b != 0.0"),
        FLAT2,
        ZEROS3,
        "np.logical_and(a, b) * 1.0",
        _piecewise("sympy.And(sympy.Ne(a, 0), sympy.Ne(b, 0))"),
        latex=r"{a} \land {b}",
        latex_binds=(ATOM, ATOM),
        sample=(((0.0, 0.0), (1.0, 1.0)), ((0.0, 0.0), (1.0, 1.0))),
    ),
    _primitive(
        "logical_or",
        _truth("a != 0.0 or b != 0.0"),
        FLAT2,
        ZEROS3,
        "np.logical_or(a, b) * 1.0",
        _piecewise("sympy.Or(sympy.Ne(a, 0), sympy.Ne(b, 0))"),
        latex=r"{a} \lor {b}",
        latex_binds=(ATOM, ATOM),
        sample=(((0.0, 0.0), (1.0, 1.0)), ((0.0, 0.0), (1.0, 1.0))),
    ),
)

PRIMITIVES: Final[tuple[Primitive, ...]] = COMMON + OTHERS + FLAT
OPCODE: Final[dict[str, int]] = {primitive.name: opcode for opcode, primitive in enumerate(PRIMITIVES)}

# Where the groups end, as opcodes.
COMMON_END: Final = len(COMMON)
FLAT_START: Final = COMMON_END + len(OTHERS)
