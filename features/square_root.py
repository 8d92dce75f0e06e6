"""The square root of a ratio of integers, correctly rounded."""

from math import isqrt

_BITS = 130
"""Of the radicand: its root then has 65, twelve more than a float, and one that says whether anything was cut."""


def square_root(numerator: int, denominator: int) -> float:
    """The float nearest to sqrt(numerator / denominator).

    Args:
        numerator: From 0.
        denominator: From 1.

    Raises:
        OverflowError: The root is larger than any float.
    """
    shift = (_BITS + denominator.bit_length() - numerator.bit_length()) // 2
    up, down = max(shift, 0), max(-shift, 0)
    radicand, rest = divmod(numerator << 2 * up, denominator << 2 * down)
    root = isqrt(radicand)
    cut = bool(rest) or root * root != radicand
    # Rounding to odd first: an odd last bit below the float's own keeps the second rounding from landing on a tie.
    return ((root | cut) << down) / (1 << up)
