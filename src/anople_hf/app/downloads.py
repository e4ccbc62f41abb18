"""What visitors take along: findings as a table and as pictures, and a place for such files that empties itself."""

import csv
import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .inspector import Finding, NotRead

COLUMNS = ("file", "product", "label", "score", "threshold", "ratio", "regions")


class Downloads:
    """Files made for visitors; each is deleted after a while, and all of them when the app ends.

    Args:
        seconds: How long a file stays.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._root = tempfile.TemporaryDirectory(prefix="anople_app_")

    def place(self, name: str) -> Path:
        """A path for a new file of this name, in a folder of its own; old ones are swept away first."""
        root = Path(self._root.name)
        for folder in root.iterdir():
            if time.time() - folder.stat().st_mtime > self.seconds:
                shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=root)) / name


def to_csv(findings: Sequence[Finding | NotRead]) -> str:
    """Findings as a table; a file that was not judged has a row that says so.

    Example:
        >>> to_csv([]).strip()
        'file,product,label,score,threshold,ratio,regions'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for found in findings:
        if isinstance(found, NotRead):
            writer.writerow([found.name, "", "not judged", "", "", "", ""])
            continue
        numbers = [f"{found.score:.6f}", f"{found.threshold:.6f}", f"{found.ratio:.3f}", len(found.regions)]
        writer.writerow([found.name, found.shows, found.label, *numbers])
    return text.getvalue()


def to_zip(findings: Sequence[Finding | NotRead]) -> bytes:
    """The table and all overlays in one archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.csv", to_csv(findings))
        for number, found in enumerate(findings):
            if isinstance(found, NotRead):
                continue
            picture = io.BytesIO()
            found.overlay().save(picture, format="PNG")
            archive.writestr(f"{number:03}_{Path(found.name).stem}.png", picture.getvalue())
    return content.getvalue()


__all__ = ["Downloads", "to_csv", "to_zip"]
