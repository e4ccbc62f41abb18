"""`Ranges`: which values are black and white in a product's photos. Fixed when it is taught, so that none is guessed.

- A range belongs to a depth: `uint8`, `uint16`, `int32` or `float32`. Most products have photos of one depth.
- 8 bits are read as they are. Deeper photos are measured: a camera puts 10, 12 or 14 bits into 16, and floats or
  32-bit integers may hold anything.
- Plain values, `{"uint16": [0, 4095]}`, for they are stored with the product and travel with an exported detector.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Ranges = Mapping[str, Sequence[float]]

FULL = {"uint8": (0, 255), "uint16": (0, 65535)}
"""What the container allows; floats and 32-bit integers have no such limits."""
BITS = (8, 10, 12, 14, 16, 20, 24, 31)
"""Depths of cameras."""
FLOATS = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""What floats are usually scaled to."""
SLACK = 0.05
"""Share of a range by which floats may leave it: filters and interpolation overshoot."""


class Extremes(NamedTuple):
    """The values of one photo, or of several.

    Attributes:
        lowest: Of all.
        highest: Of all.
        low: But for the lowest thousandth.
        high: But for the highest thousandth: a few hot pixels say nothing about the range.
    """

    lowest: float
    highest: float
    low: float
    high: float


def measure(depth: str, found: Iterable[Extremes]) -> tuple[float, float]:
    """The range of good photos: what is black, and what is white.

    Integers: the smallest usual depth that holds all values. Floats: the usual scale that the values nearly reach, or
    else their own highest value. Black is 0, unless values lie below.

    Args:
        depth: Of the photos.
        found: Their values.

    Example:
        >>> measure("uint16", [Extremes(30, 3890, 31, 3700)]), measure("float32", [Extremes(0, 1.01, 0, 0.9)])
        ((0, 4095), (0.0, 1.0))
    """
    if depth == "uint8":
        return FULL[depth]
    lowest, highest, lows, highs = zip(*found, strict=True)
    if depth != "float32":
        top = next(2**bits - 1 for bits in BITS if max(highest) < 2**bits)
        return int(min(0, *lowest)), top
    high, low = max(highs), min(lows)
    top = next((step for step in FLOATS if step / 16 < high <= step * (1 + SLACK)), float(high) if high > 0 else 1.0)
    return (0.0 if low >= -SLACK * top else float(low)), top


def shared(known: Iterable[Ranges]) -> dict[str, list[float]]:
    """The ranges for a photo whose product is not told: those that all products with photos of a depth share.

    Where they differ, it is what the container allows; floats and 32-bit integers have the widest of the ranges.

    Args:
        known: Of each product.

    Example:
        >>> shared([{"uint16": [0, 4095]}, {"uint8": [0, 255]}])
        {'uint16': [0, 4095], 'uint8': [0, 255]}
        >>> shared([{"uint16": [0, 4095]}, {"uint16": [0, 1023]}])
        {'uint16': [0, 65535]}
    """
    found: dict[str, list[list[float]]] = {}
    for ranges in known:
        for depth, ends in ranges.items():
            found.setdefault(depth, []).append(list(ends))
    return {depth: every[0] if len(set(map(tuple, every))) == 1 else _widest(depth, every)
            for depth, every in found.items()}  # fmt: skip


def _widest(depth: str, every: Sequence[Sequence[float]]) -> list[float]:
    return list(FULL.get(depth, (min(low for low, _ in every), max(high for _, high in every))))


def describe_difference(known: Mapping[str, Ranges]) -> list[str]:
    """A line for each depth that products are read in differently: then it matters that the product is told.

    Args:
        known: Ranges by product.

    Example:
        >>> describe_difference({"gear": {"uint16": [0, 4095]}, "nut": {"uint16": [0, 1023]}})
        ['uint16: gear is read up to 4095, nut up to 1023; a photo whose product is not told is read up to 65535']
    """
    common, lines = shared(known.values()), []
    for depth, ends in common.items():
        own = {name: ranges[depth][1] for name, ranges in known.items() if depth in ranges}
        if len(set(own.values())) > 1:
            each = ", ".join(
                f"{name} {'is read ' if not n else ''}up to {high:.6g}" for n, (name, high) in enumerate(own.items())
            )
            lines.append(f"{depth}: {each}; a photo whose product is not told is read up to {ends[1]:.6g}")
    return lines


def describe(depth: str, ends: Sequence[float]) -> str:
    """A range in words.

    Example:
        >>> describe("uint16", (0, 4095))
        '12 bits in uint16, 0 is black and 4095 is white'
    """
    low, high = ends
    bits = int(high).bit_length()
    inside = f"{bits} bits in " if depth in ("uint16", "int32") and high == 2**bits - 1 and bits != 16 else ""
    return f"{inside}{depth}, {low:.6g} is black and {high:.6g} is white"


def misfit(depth: str, found: Extremes | None, ranges: Ranges) -> str:
    """Why a photo does not fit its product's range, or "".

    Args:
        depth: Of the photo.
        found: Its values; None for 8 bits, which always fit.
        ranges: Of the product; empty if nothing is known of them.
    """
    if not ranges:
        return ""
    if depth not in ranges:
        return f"its depth is {depth}, the product was taught with {' and '.join(ranges)}; it is read by its own depth"
    if found is None:
        return ""
    low, high = ranges[depth]
    slack = SLACK * (high - low) if depth == "float32" else 0
    if found.highest > high + slack:
        return (
            f"its brightest value is {found.highest:.6g}, its product is read up to {high:.6g}; more counts as white"
        )
    if found.lowest < low - slack:
        return f"its darkest value is {found.lowest:.6g}, its product is read from {low:.6g}; less counts as black"
    return ""


__all__ = ["FULL", "Extremes", "Ranges", "describe", "describe_difference", "measure", "misfit", "shared"]
