"""The visual language of all pictures: which color means what, on maps, contours, charts and pages.

The paper's fig. 3 shows heat maps in a rainbow, which has no order of lightness.

- Amounts of anomaly: one perceptually uniform map whose lightness only rises, so it reads the same in gray.
- Good and defective: light blue and dark orange, told apart by color-blind eyes and in gray; charts add a hatch.
  Never red and green.
- Contours carry a dark edge, so that they show on bright photos, too.
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
    """Colors of anomaly levels.

    Args:
        levels: Any shape, 0 (bottom of the scale) to 1 (top).

    Returns:
        RGB in 0..255, one axis more.
    """
    return matplotlib.colormaps[COLOR_MAP](np.asarray(levels))[..., :3] * 255


def css(color: Color) -> str:
    """A color as web pages and matplotlib write it.

    Example:
        >>> css(DETECTED)
        '#00e5ff'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)


def plain(axis: Axes) -> None:
    """Take away what tells nothing: the upper and right border; the others turn pale, labels small."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINES)
    axis.tick_params(labelsize=7, color=LINES, labelcolor=FAINT)


def png(figure: Figure, dpi: int = 120) -> bytes:
    """A figure as the bytes of a PNG file, without pyplot: threads and servers share no state."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Write a figure (.png, .pdf, .svg, ...) at once: written aside, then renamed; its folder is made if needed.

    Returns:
        The path.
    """
    with whole_file(path) as file:
        figure.savefig(file, dpi=dpi)
    return Path(path)
