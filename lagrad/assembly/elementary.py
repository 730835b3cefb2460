"""sin, cos and exp as straight-line code, so that a loop of them vectorises; the libm's where that does not hold.

Takes and gives plain floats, or one register of a block. Knows no opcodes: the generator of `dispatch` writes these
names where the table says `math.sin`, `math.cos` and `math.exp`, in tapes and in blocks, so that both round alike.

A call into libm takes 8 ns for a sine and 4 ns for an exponential, and a loop around it stays scalar; without calls and
branches four instances run at once, in 2 and 1 ns. The method and the coefficients are those of FDLIBM (Sun
Microsystems 1993: k_sin.c, k_cos.c, e_exp.c), with all steps of the argument's reduction taken always:

    sin, cos   a = k π/2 + (y + z), |y| ≤ π/4, with π/2 in three parts (Cody and Waite 1980), the first of 33 bits, so
               that k times it is exact; z carries what the rounding of y lost. Polynomials of degree 13 and 14;
               k mod 4 chooses between them and the sign. For |a| < 1e5.
    exp        a = k ln 2 + r, |r| ≤ ln 2 / 2; a rational function of r; 2^k is put together from its bits. For
               |a| < 700, where neither the result nor 2^k overflows or is subnormal.

Largest errors over a million random arguments in each of several ranges, against long doubles, in units of the last
place: 0.78 for sin and cos (libm 0.52), 0.89 for exp (libm 0.71).
"""

import math

import numpy as np

from lagrad.kernel import inlined, internal

NEAR = 1e5  # |a| below which sin and cos are computed here
MODEST = 700.0  # |a| below which exp is
STRETCH = 256  # numbers that are looked at, then computed

TWO_OVER_PI = 0.6366197723675814
P1 = float.fromhex("0x1.921fb54400000p+0")
P2 = float.fromhex("0x1.0b4611a600000p-34")
P3 = float.fromhex("0x1.3198a2e037073p-69")
S1, S2, S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
S4, S5, S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
C1, C2, C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
C4, C5, C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11

ONE_OVER_LN2 = 1.44269504088896338700e00
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
E1, E2, E3 = 1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05
E4, E5 = -1.65339022054652515390e-06, 4.13813679705723846039e-08


@inlined
def _reduced(a):
    """k, y, z of a = k π/2 + (y + z)."""
    k = np.rint(a * TWO_OVER_PI)
    t = a - k * P1
    w = k * P2
    r = t - w
    w = k * P3 - ((t - r) - w)
    y = r - w
    return k, y, (r - y) - w


@inlined
def _odd(y, z):
    """sin(y + z)."""
    u = y * y
    v = u * y
    return y - ((u * (0.5 * z - v * (S2 + u * (S3 + u * (S4 + u * (S5 + u * S6))))) - z) - v * S1)


@inlined
def _even(y, z):
    """cos(y + z)."""
    u = y * y
    h = 0.5 * u
    g = 1.0 - h
    series = u * (C1 + u * (C2 + u * (C3 + u * (C4 + u * (C5 + u * C6)))))
    return g + (((1.0 - g) - h) + (u * series - y * z))


@inlined
def _turned(a, quarters):
    """sin(a + quarters · π/2) for |a| < NEAR; quarters 0.0 or 1.0. Both polynomials, and a choice."""
    k, y, z = _reduced(a)
    q = k + quarters
    q = q - 4.0 * np.floor(q * 0.25)
    s, c = _odd(y, z), _even(y, z)
    f = c if q == 1.0 or q == 3.0 else s
    return -f if q >= 2.0 else f


@inlined
def _turned_once(a, quarters):
    """The same for one number: only the polynomial that is needed, 7 ns instead of 10."""
    k, y, z = _reduced(a)
    q = k + quarters
    q = q - 4.0 * np.floor(q * 0.25)
    if q == 1.0 or q == 3.0:
        f = _even(y, z)
    else:
        f = _odd(y, z)
    return -f if q >= 2.0 else f


@inlined
def _raised(a):
    """exp(a) for |a| < MODEST."""
    k = np.rint(a * ONE_OVER_LN2)
    high = a - k * LN2_HIGH
    low = k * LN2_LOW
    r = high - low
    t = r * r
    c = r - t * (E1 + t * (E2 + t * (E3 + t * (E4 + t * E5))))
    y = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    return y * np.int64((np.int64(k) + 1023) << 52).view(np.float64)


@inlined
def _near_sine(a):
    return a if a == 0.0 else _turned(a, 0.0)  # sin(-0.0) is -0.0


@internal
def sine(a):
    """sin(a)."""
    if a == 0.0:
        return a
    return _turned_once(a, 0.0) if abs(a) < NEAR else math.sin(a)


@internal
def cosine(a):
    """cos(a)."""
    return _turned_once(a, 1.0) if abs(a) < NEAR else math.cos(a)


@internal
def exponential(a):
    """exp(a)."""
    return _raised(a) if abs(a) < MODEST else math.exp(a)


@inlined
def _within(reg, x, width, limit):
    largest = 0.0
    inside = True
    for i in range(width):
        largest = max(largest, abs(reg[x, i]))
        inside = inside and reg[x, i] == reg[x, i]
    return inside and largest < limit


@internal
def block_sine(reg, x, o, width):
    """reg[o, i] = sin(reg[x, i])."""
    if _within(reg, x, width, NEAR):
        for i in range(width):
            reg[o, i] = _near_sine(reg[x, i])
    else:
        for i in range(width):
            reg[o, i] = sine(reg[x, i])


@internal
def block_cosine(reg, x, o, width):
    """reg[o, i] = cos(reg[x, i])."""
    if _within(reg, x, width, NEAR):
        for i in range(width):
            reg[o, i] = _turned(reg[x, i], 1.0)
    else:
        for i in range(width):
            reg[o, i] = cosine(reg[x, i])


@internal
def block_exponential(reg, x, o, width):
    """reg[o, i] = exp(reg[x, i])."""
    if _within(reg, x, width, MODEST):
        for i in range(width):
            reg[o, i] = _raised(reg[x, i])
    else:
        for i in range(width):
            reg[o, i] = exponential(reg[x, i])


@internal
def block_sine_partial(reg, adj, x, o, width):
    """adj[x, i] += adj[o, i] · cos(reg[x, i]), nothing where adj[o, i] is 0."""
    if _within(reg, x, width, NEAR):
        for i in range(width):
            w = adj[o, i]
            adj[x, i] += 0.0 if w == 0.0 else w * _turned(reg[x, i], 1.0)
    else:
        for i in range(width):
            w = adj[o, i]
            adj[x, i] += 0.0 if w == 0.0 else w * cosine(reg[x, i])


@internal
def block_cosine_partial(reg, adj, x, o, width):
    """adj[x, i] -= adj[o, i] · sin(reg[x, i]), nothing where adj[o, i] is 0."""
    if _within(reg, x, width, NEAR):
        for i in range(width):
            w = adj[o, i]
            adj[x, i] += 0.0 if w == 0.0 else w * -_near_sine(reg[x, i])
    else:
        for i in range(width):
            w = adj[o, i]
            adj[x, i] += 0.0 if w == 0.0 else w * -sine(reg[x, i])


@inlined
def _all_within(x, limit):
    inside = True
    for i in range(x.size):
        inside = inside and abs(x[i]) < limit
    return inside


# Loops over whole arrays, of which a stretch is a slice: an index that runs from lo to hi could be negative for all the
# compiler knows, and where out begins where x ends, as in array statements, it then ran the plain loop instead of the
# vectorised one (a sine 13 ns instead of 4).
@internal
def _sines(x, out):
    if _all_within(x, NEAR):
        for i in range(x.size):
            out[i] = _near_sine(x[i])
    else:
        for i in range(x.size):
            out[i] = sine(x[i])


@internal
def _cosines(x, out):
    if _all_within(x, NEAR):
        for i in range(x.size):
            out[i] = _turned(x[i], 1.0)
    else:
        for i in range(x.size):
            out[i] = cosine(x[i])


@internal
def _exponentials(x, out):
    if _all_within(x, MODEST):
        for i in range(x.size):
            out[i] = _raised(x[i])
    else:
        for i in range(x.size):
            out[i] = exponential(x[i])


@internal
def sines(x, out):
    """out = sin(x), in stretches that stay in the nearest cache."""
    for lo in range(0, x.size, STRETCH):
        hi = min(lo + STRETCH, x.size)
        _sines(x[lo:hi], out[lo:hi])


@internal
def cosines(x, out):
    """out = cos(x)."""
    for lo in range(0, x.size, STRETCH):
        hi = min(lo + STRETCH, x.size)
        _cosines(x[lo:hi], out[lo:hi])


@internal
def exponentials(x, out):
    """out = exp(x)."""
    for lo in range(0, x.size, STRETCH):
        hi = min(lo + STRETCH, x.size)
        _exponentials(x[lo:hi], out[lo:hi])


@internal
def pass_on(own, partials, to):
    """to += own · partials, nothing where own is 0."""
    for i in range(own.size):
        w = own[i]
        to[i] += 0.0 if w == 0.0 else w * partials[i]


@internal
def take_off(own, partials, to):
    """to −= own · partials, nothing where own is 0."""
    for i in range(own.size):
        w = own[i]
        to[i] -= 0.0 if w == 0.0 else w * partials[i]
