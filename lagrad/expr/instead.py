"""What to write in place of the NumPy and SciPy functions that expressions do not take part in.

Names of functions and methods, and the sentence that ends the error; knows no expressions.
"""

LISTED = "The functions that expressions take part in are listed in docs/functions.md."
_ORDER = (
    "The order of traced values is not known; np.max and np.min of an array, and np.minimum and np.maximum of "
    "two, are."
)
_WHICH = "Which element it is is not known before the system is solved; np.max, np.min and lg.where are."
_FINITE = "Values that are not finite are refused when the system is solved: leave the test out."
_COMPARED = "Compare the numbers of the solution; inside lg.where, write abs(x - y) < tolerance."
_DEFINED = (
    "Make the result a state, with the equations that define it as constraints (lg.implicit in a function)."
)
# What takes the place of functions that expressions do not take part in.
INSTEAD = {
    **dict.fromkeys(
        (
            "sort",
            "argsort",
            "partition",
            "argpartition",
            "lexsort",
            "unique",
            "median",
            "percentile",
            "quantile",
            "searchsorted",
            "digitize",
            "histogram",
            "sort_complex",
        ),
        _ORDER,
    ),
    **dict.fromkeys(("argmax", "argmin", "nonzero", "flatnonzero", "argwhere", "choose"), _WHICH),
    **dict.fromkeys(("isnan", "isfinite", "isinf"), _FINITE),
    **dict.fromkeys(("isclose", "allclose", "array_equal", "array_equiv", "isin"), _COMPARED),
    **dict.fromkeys(
        (
            "det",
            "slogdet",
            "eig",
            "eigh",
            "eigvals",
            "eigvalsh",
            "svd",
            "svdvals",
            "qr",
            "cholesky",
            "pinv",
            "lstsq",
            "roots",
        ),
        _DEFINED,
    ),
    **{
        f"nan{name}": f"No traced value is nan: use np.{name}."
        for name in ("sum", "prod", "mean", "var", "std", "max", "min", "cumsum", "cumprod")
    },
    "piecewise": "Write lg.where(condition, a, b), once for each piece.",
    "tobytes": "The numbers are in the solution.",
    "put": "Assign: x[index] = value.",
    "ptp": "Write np.ptp(x).",
    "compress": "Write x[condition], with a condition of numbers.",
    "reduceat": "Sum slices: np.stack([np.sum(x[i:j]) for …]).",
    "gamma": "Write np.exp(scipy.special.gammaln(x)) for x > 0.",
    "logit": "Write np.log(x / (1.0 - x)).",
    "xlogy": "Write x * np.log(y), inside lg.where(x > 0, …, 0.0) where x may be 0.",
    "ndtr": "Write 0.5 * scipy.special.erfc(-x / np.sqrt(2.0)).",
    "log_expit": "Write -np.logaddexp(0.0, -x).",
    "softplus": "Write np.logaddexp(0.0, x).",
    "exp10": "Write 10.0**x.",
    "entr": "Write -x * np.log(x).",
    "betaln": "Write it with scipy.special.gammaln.",
    "solve": 'Let the unknown be a state: x = program.state("x", shape=…), program.constrain(A @ x == b).',
    "inv": 'Let what it is multiplied with be a state: x = program.state("x", shape=…), constrain(A @ x == b).',
}
