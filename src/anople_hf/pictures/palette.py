"""The colors of all pictures: what each means on maps, contours, charts and pages.

The paper's Figure 3 shows heat maps in rainbow colors, whose lightness is not in order.

- Anomaly values: one perceptually uniform color map whose lightness only rises, so it reads the same in gray.
- Good and defective: light blue and dark orange, which color-blind people can tell apart, and which differ in gray;
  charts add a hatch. Never red and green.
- Contours have a dark edge, so that they also show on bright photos.
"""

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ..output.whole import whole_file

Color = tuple[int, int, int]

COLOR_MAP = "inferno"
DETECTED: Color = (0, 229, 255)  # a hue that the color map does not hold
TRUTH: Color = (240, 228, 66)
EDGE: Color = (16, 16, 16)
GOOD, DEFECTIVE = "#8ac4e6", "#b2410c"  # areas: light blue, dark orange
GOOD_TEXT, DEFECTIVE_TEXT = "#00598c", "#a83a06"
INK, FAINT, LINES = "#222222", "#6b6b6b", "#d9d9d9"


def paint(levels: ArrayLike) -> NDArray[np.float64]:
    """Color anomaly levels.

    Args:
        levels: Any shape, 0 (bottom of the scale) to 1 (top).

    Returns:
        RGB in 0..255, with one more axis.
    """
    return matplotlib.colormaps[COLOR_MAP](np.asarray(levels))[..., :3] * 255


def css(color: Color) -> str:
    """Write a color as web pages and matplotlib do.

    Example:
        >>> css(DETECTED)
        '#00e5ff'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)


def plain(axis: Axes) -> None:
    """Remove the top and right borders of an axis; make the other borders pale and the labels small."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINES)
    axis.tick_params(labelsize=7, color=LINES, labelcolor=FAINT)


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Render a figure to the bytes of a PNG file, without pyplot, so that threads and servers share no state."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Write a figure (.png, .pdf, .svg, ...) as a whole file; its folder is created if needed.

    Returns:
        The path.
    """
    with whole_file(path) as file:
        figure.savefig(file, dpi=dpi)
    return Path(path)
