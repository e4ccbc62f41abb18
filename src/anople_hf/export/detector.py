"""`ExportedDetector`: judges photos with a folder written by `anople export`, without the original model.

Scores are those of sec. 3.4, and decisions those of `AnoPLeProcessor`.

This file, `images.py`, `photos.py`, `ranges.py` and `decisions.py` need only numpy, pillow, scipy and the runtime of
the graph. The export copies them into the folder as the package `anople_reader`, for machines with neither torch nor
`anople_hf`.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..decisions import decide
from ..images import read_image

DETECTOR_FILE = "detector.json"
FORMAT = "anople-detector/2"
FORMATS = ("anople-detector/1", FORMAT)
"""Those that can be read; in the first, no graph has `strangeness`."""
OUTPUTS = ("scores", "anomaly_maps", "products", "strangeness")
"""Of a graph, in this order; the last two where it has them."""

Run = Callable[[NDArray[np.float32]], Sequence[NDArray[Any]]]


class Scored(NamedTuple):
    """What a graph says of B photos.

    Attributes:
        scores: Raw, (B,).
        anomaly_maps: (B, S, S).
        products: (B,) indices in the list of products; None if the graph does not recognize products.
        strangeness: (B,) how unlike their product the photos are: above 1, they show no such product. NaN, or None
            for all, where that is not known.
    """

    scores: NDArray[np.float32]
    anomaly_maps: NDArray[np.float32]
    products: NDArray[np.int64] | None = None
    strangeness: NDArray[np.float32] | None = None


class ExportedDetector:
    """An exported detector: photos in, decisions out.

    Args:
        about: The contents of `detector.json`.
        run: The graph: (B, 3, S, S) to the `outputs` of `about`, or the first of `OUTPUTS`; see `Scored`.

    Attributes:
        about: As given: preprocessing, ranges of deep photos, category, products, calibration, parity, versions.
        threshold: Score above which a part is defective. None takes that of the recognized product. Can be set.
        pixel_threshold: Map value above which a pixel is marked; works like `threshold`.

    Example:
        >>> about = {
        ...     "preprocessing": {"size": 4, "resample": 3, "rescale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3},
        ...     "calibration": {"threshold": 0.5, "pixel_threshold": 0.5},
        ...     "labels": ["normal", "defective"],
        ... }
        >>> detector = ExportedDetector(about, lambda pixels: (pixels.max(axis=(1, 2, 3)), pixels[:, 0]))
        >>> result = detector(np.full((8, 6, 3), 255, np.uint8))
        >>> result["score"], result["label"], result["regions"]
        (1.0, 'defective', [{'box': (0, 0, 6, 8), 'peak': 1.0, 'area': 48}])
    """

    def __init__(self, about: dict[str, Any], run: Run) -> None:
        self.about = about
        self._run = run
        calibration = {} if about.get("products") else about["calibration"] or {}
        self.threshold: float | None = calibration.get("threshold")
        self.pixel_threshold: float | None = calibration.get("pixel_threshold")

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, *, threads: int | None = None) -> "ExportedDetector":
        """Open a folder written by `anople export`.

        Args:
            folder: The folder.
            threads: Number of threads of the runtime; None lets it use all cores. With `kind="torch"` the number
                applies to the whole process.

        Raises:
            FileNotFoundError: The folder has no exported detector.
            ValueError: A file was changed after the export; names it.
            ImportError: The runtime is not installed; says which.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / DETECTOR_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{folder} holds no exported detector (no {DETECTOR_FILE}); expected a folder of `anople export`."
            ) from error
        except ValueError as error:
            raise ValueError(f"{folder / DETECTOR_FILE} is damaged ({error}); copy the folder again.") from error
        if about.get("format") not in FORMATS:
            raise ValueError(
                f"{folder / DETECTOR_FILE} is of format {about.get('format')!r}, this program reads {FORMAT!r}: "
                "export again, or use the anople_reader in the folder."
            )
        for name, digest in about["files"].items():
            if not (folder / name).is_file() or file_digest(folder / name) != digest:
                raise ValueError(
                    f"{folder / name} is missing or not as it was exported; copy the folder again, or export again."
                )
        return cls(about, OPENERS[about["kind"]](folder / about["graph"], list(about["outputs"]), threads))

    def prepare(self, photos: Sequence[Any]) -> NDArray[np.float32]:
        """Make the graph's input from photos; the bits equal those of `AnoPLeProcessor`.

        Args:
            photos: As `anople_hf.images.read_image` takes them: paths, bytes, PIL images, arrays, ...

        Returns:
            (B, 3, S, S).

        Raises:
            UnreadableImageError: Names the file.
        """
        return self._normalize([self._read(photo) for photo in photos])

    def score(self, pixel_values: NDArray[np.float32]) -> Scored:
        """Run the graph.

        Args:
            pixel_values: (B, 3, S, S) from `prepare`, any B of at least 1.

        Raises:
            ValueError: The shape is wrong.
        """
        side = self.about["preprocessing"]["size"]
        if pixel_values.ndim != 4 or not len(pixel_values) or pixel_values.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixel_values of shape {pixel_values.shape}: expected (batch, 3, {side}, {side}), as prepare() makes "
                "it."
            )
        found = self._run(np.ascontiguousarray(pixel_values, np.float32))
        names = list(self.about.get("outputs", OUTPUTS[: len(found)]))
        return Scored(**dict(zip(names, found, strict=True)))

    def limits(self, product: int | None) -> tuple[float | None, float | None]:
        """Threshold and pixel threshold for an index in the list of products, in float32, like the scores."""
        own = {} if product is None else self.about["products"][product]["calibration"] or {}
        image, pixel = (
            own.get(name) if getattr(self, name) is None else getattr(self, name)
            for name in ("threshold", "pixel_threshold")
        )
        return _as_float32(image), _as_float32(pixel)

    def __call__(self, photos: Any, *, min_region: int = 9, unknown: bool = True, gray_zone: float = 0.0) -> Any:
        """Judge a photo, or several in one pass.

        Args:
            photos: One photo, or a list of them, as for `prepare`.
            min_region: Smallest region to report, in pixels of the graph's map.
            unknown: As in `AnoPLeProcessor.post_process`: say `unknown product` of photos unlike everything taught.
            gray_zone: As there: share of the threshold in which a photo is `uncertain`.

        Returns:
            A dict as from `AnoPLeProcessor.post_process`, at the size of the photo, or a list of them: `score`,
            `threshold`, `pixel_threshold`, `ratio`, `label`, `heat_map` (H, W), `mask` (H, W), `mask_level`,
            `regions`, and `category`: the product given at the export, or the recognized one, or None.
        """
        many = isinstance(photos, (list, tuple))
        images = [self._read(photo) for photo in (photos if many else [photos])]
        if not images:
            raise ValueError("photos is empty: expected at least one.")
        found = self.score(self._normalize(images))
        nothing = [None] * len(images)
        places = nothing if found.products is None else found.products.tolist()
        strange = [0.0] * len(images) if found.strangeness is None else found.strangeness.tolist()
        each = zip(found.scores, found.anomaly_maps, places, images, strange, strict=True)
        results = [
            self._decide(
                score, anomaly_map, place, image.size[::-1], min_region,
                unknown=unknown and strangeness > 1, gray_zone=gray_zone,
            )
            for score, anomaly_map, place, image, strangeness in each
        ]  # fmt: skip
        return results if many else results[0]

    def _read(self, photo: Any) -> Image.Image:
        return read_image(photo, self.about.get("ranges"))

    def _normalize(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        how = self.about["preprocessing"]
        mean, std = (np.array(how[name], np.float32)[:, None, None] for name in ("mean", "std"))
        views = [
            np.asarray(image.resize((how["size"], how["size"]), resample=Image.Resampling(how["resample"])))
            for image in images
        ]
        values = (np.stack(views).transpose(0, 3, 1, 2).astype(np.float64) * how["rescale"]).astype(np.float32)
        return (values - mean) / std

    def _decide(
        self,
        score: np.floating,
        anomaly_map: NDArray[np.float32],
        product: int | None,
        size: tuple[int, int],
        min_region: int,
        **how: Any,
    ) -> dict[str, Any]:
        limit, pixel_limit = self.limits(product)
        cell = size[0] * size[1] / anomaly_map.size
        found = decide(
            float(score),
            resize_bilinear(anomaly_map, size),
            threshold=limit,
            pixel_threshold=pixel_limit,
            labels=self.about["labels"],
            min_area=min_region * cell,
            **how,
        )
        category = self.about.get("category") if product is None else self.about["products"][product]["name"]
        return found | {"category": category}


def _as_float32(value: float | None) -> float | None:
    return None if value is None else float(np.float32(value))


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resize_bilinear(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map (h, w) to `size` like torch's bilinear interpolation without `align_corners`, up to rounding.

    Example:
        >>> resize_bilinear(np.array([[0.0, 1.0]], np.float32), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    for axis in (0, 1):
        old, new = values.shape[axis], size[axis]
        if old == new:
            continue
        places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
        places = np.maximum(places, 0)
        low = np.minimum(places.astype(np.int64), old - 1)
        high = np.minimum(low + 1, old - 1)
        share = (places - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def _open_onnx(path: Path, outputs: list[str], threads: int | None) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("this detector runs on ONNX Runtime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(outputs, {"pixel_values": pixels})


def _open_openvino(path: Path, outputs: list[str], threads: int | None) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise ImportError("this detector runs on OpenVINO: pip install openvino") from error
    # The hint stands in the graph, too, but OpenVINO's CPU does not read it there (2026.4): a processor that
    # multiplies bfloat16 would do so.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    lock = threading.Lock()  # a request serves one caller at a time

    def run(pixels: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        with lock:
            found = request.infer({"pixel_values": pixels}, share_outputs=False)
        return [found[name] for name in outputs]

    return run


def _open_torch(path: Path, outputs: list[str], threads: int | None) -> Run:
    try:
        import torch
    except ImportError as error:
        raise ImportError("this detector runs on torch: pip install torch") from error
    if threads:
        torch.set_num_threads(threads)
    module = torch.export.load(str(path)).module()

    def run(pixels: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            found = module(pixel_values=torch.from_numpy(pixels))
        return [found[name].numpy() for name in outputs]

    return run


OPENERS: dict[str, Callable[[Path, list[str], int | None], Run]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torch": _open_torch,
}
"""How each kind of graph is opened: its file, its outputs in order, threads."""
