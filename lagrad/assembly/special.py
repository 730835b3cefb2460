"""Special functions of one or two numbers that neither `math` nor Numba gives a kernel.

Takes and gives plain floats. Knows no opcodes: the table of primitives names these functions in its sources.

The polygamma functions ψ, ψ', ψ'', ψ''' go three ways (Abramowitz and Stegun 6.3 and 6.4):

    reflection   x < 0:    ψ(x) = ψ(1 − x) − π cot πx, and its derivatives
    recurrence   x < 20:   ψ(x) = ψ(x + 1) − 1/x, and its derivatives
    asymptotics  x ≥ 20:   ψ(x) ~ ln x − 1/(2x) − Σ B_2k / (2k x^2k), and its derivatives

At x = 20 the first term that is left out is below 1e-18 of the value in all four. The angle πx is formed
from x − rint(x), which is exact, so that large negative arguments lose nothing.
"""

import math

import numpy as np

from lagrad.kernel import kernel

_LARGE = 20.0


@kernel
def digamma(x: float) -> float:
    """ψ(x) = d/dx ln Γ(x). Poles: −inf at 0, nan at the negative whole numbers (no sign)."""
    shift = 0.0
    if x < 0.0:
        angle = x - np.rint(x)
        if angle == 0.0:
            return math.nan
        shift = -math.pi / math.tan(math.pi * angle)
        x = 1.0 - x
    total = 0.0
    while x < _LARGE:
        total -= 1.0 / x
        x += 1.0
    z = 1.0 / (x * x)
    # B_2k / (2k): 1/12, −1/120, 1/252, −1/240, 1/132, −691/32760
    series = z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132 - z * (691 / 32760))))))
    return math.log(x) - 0.5 / x - series + total + shift


@kernel
def trigamma(x: float) -> float:
    """ψ'(x). Poles, at 0 and the negative whole numbers: +inf."""
    reflect = x < 0.0
    shift = 0.0
    if reflect:
        sine = math.sin(math.pi * (x - np.rint(x)))
        shift = math.pi * math.pi / (sine * sine)
        x = 1.0 - x
    total = 0.0
    while x < _LARGE:
        total += 1.0 / (x * x)
        x += 1.0
    z = 1.0 / (x * x)
    # B_2k: 1/6, −1/30, 1/42, −1/30, 5/66, −691/2730
    series = z * (1 / 6 - z * (1 / 30 - z * (1 / 42 - z * (1 / 30 - z * (5 / 66 - z * (691 / 2730))))))
    value = (1.0 + 0.5 / x + series) / x + total
    return shift - value if reflect else value


@kernel
def polygamma2(x: float) -> float:
    """ψ''(x). Poles: −inf at 0, nan at the negative whole numbers (no sign)."""
    shift = 0.0
    if x < 0.0:
        angle = math.pi * (x - np.rint(x))
        if angle == 0.0:
            return math.nan
        sine = math.sin(angle)
        shift = -2.0 * math.pi**3 / (sine * sine * math.tan(angle))
        x = 1.0 - x
    total = 0.0
    while x < _LARGE:
        total += 2.0 / (x * x * x)
        x += 1.0
    z = 1.0 / (x * x)
    # (2k + 1) B_2k: 1/2, −1/6, 1/6, −3/10, 5/6, −691/210, 35/2
    series = z * (1 / 2 - z * (1 / 6 - z * (1 / 6 - z * (3 / 10 - z * (5 / 6 - z * (691 / 210 - z * 17.5))))))
    return shift - (1.0 + 1.0 / x + series) * z - total


@kernel
def polygamma3(x: float) -> float:
    """ψ'''(x). Poles, at 0 and the negative whole numbers: +inf."""
    reflect = x < 0.0
    shift = 0.0
    if reflect:
        sine = math.sin(math.pi * (x - np.rint(x)))
        csc2 = 1.0 / (sine * sine)
        shift = 2.0 * math.pi**4 * csc2 * (3.0 * csc2 - 2.0)
        x = 1.0 - x
    total = 0.0
    while x < _LARGE:
        total += 6.0 / (x * x * x * x)
        x += 1.0
    z = 1.0 / (x * x)
    # (2k + 1)(2k + 2) B_2k: 2, −1, 4/3, −3, 10, −691/15, 280
    series = z * (2.0 - z * (1.0 - z * (4 / 3 - z * (3.0 - z * (10.0 - z * (691 / 15 - z * 280.0))))))
    value = (2.0 + 3.0 / x + series) * z / x + total
    return shift - value if reflect else value


@kernel
def expit(x: float) -> float:
    """1 / (1 + e^−x). An overflow of e^−x gives the right limit 0."""
    return 1.0 / (1.0 + math.exp(-x))


@kernel
def sech2(x: float) -> float:
    """1 / cosh² x, the derivative of tanh, to full relative precision also where tanh is 1 to all digits."""
    e = math.exp(-2.0 * abs(x))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@kernel
def logaddexp(x: float, y: float) -> float:
    """ln(e^x + e^y) without overflow, also for two equal infinities."""
    if x == y:
        return x + 0.6931471805599453
    return max(x, y) + math.log1p(math.exp(-abs(x - y)))
