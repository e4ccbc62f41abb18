"""`export`: writes a detector as one graph (ONNX, OpenVINO or torch.export) after checking it against torch.

The graph holds all of sec. 3.4: tower, decoder, memory, fusion, score.

- transformers' own exporters trace and convert; `transformers.exporters.ExportedModel` also opens the folder.
- The graph includes the memory of one `category` or of all, and searches it exactly in float32. If the model
  recognizes the product (`memory_search="product"`), so does the graph, and returns it.
- `detector.json` holds thresholds, preprocessing and the results of the check; `detector.py` reads it.
- The check judges photos with the exported files. If the results differ from torch's, nothing is written.
"""

import contextlib
import copy
import importlib
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from .. import __version__
from ..hub import public_name
from ..modeling_anople import AnoPLeModel, AnoPLeOutput, Branch
from ..output.whole import whole_folder
from ..processing_anople import LABELS, AnoPLeProcessor
from .detector import DETECTOR_FILE, FORMAT, OUTPUTS, ExportedDetector, file_digest
from .parity import check_parity

Kind = Literal["onnx", "openvino", "torch"]

NEEDED: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": (),
}
"""Packages that each kind asks for beside torch and transformers."""

READER = "anople_reader"
"""Package in the folder that judges without torch: `detector.py` and what it imports, placed as in this package."""
READER_FILES = ("decisions.py", "export/detector.py", "images.py", "photos.py", "ranges.py")
ENTRANCE = '''"""Reads the exported detector beside it; needs numpy, pillow, scipy and the runtime of the graph."""

from .export.detector import ExportedDetector

__all__ = ["ExportedDetector"]
'''

RULE = (
    "unknown product if the strangeness, where there is one, is above 1; else "
    "defective if the score is above the threshold; a defective part's pixel is marked above the pixel threshold, or "
    "above 0.9 of the map's peak if that is lower"
)

logger = logging.getLogger(__name__)


class ScoringGraph(nn.Module):
    """A model as a function of photos alone.

    Args:
        model: Its weights are shared. The text tower is left out, because its two vectors are stored. The memory is
            searched exactly, so that the graph gives the same result on every machine.
        category: Route to one product; None searches all.
        branch: As in `AnoPLeModel.forward`.
    """

    def __init__(self, model: AnoPLeModel, category: str | None, branch: Branch) -> None:
        super().__init__()
        clip = copy.copy(model.clip)
        clip._modules = model.clip._modules | {"text_model": nn.Identity()}
        memory = model.memory.searched_exactly(category)
        if branch != "prompt" and len(memory):
            recognized = category is None and model.config.memory_search == "product"
            memory.prepare(memory.categories if recognized else [category])
        self.model = copy.copy(model)
        self.model._modules = model._modules | {"clip": clip, "memory": memory}
        self.category, self.branch = category, branch

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) to what `Scored` has: raw `scores` (B,), `anomaly_maps` (B, S, S), ..."""
        return judge(self.model, pixel_values, self.category, self.branch)


def judge(model: AnoPLeModel, pixel_values: Tensor, category: str | None, branch: Branch) -> dict[str, Tensor]:
    """What a graph gives for (B, 3, S, S), by the model itself, as `predict` asks it."""
    found = cast(AnoPLeOutput, model(pixel_values, category=category, branch=branch))
    return {name: value for name in OUTPUTS if (value := getattr(found, name)) is not None}


def export(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    output: str | Path,
    *,
    kind: Kind = "onnx",
    category: str | None = None,
    branch: Branch | None = None,
    photos: Sequence[Any] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a folder that judges photos without this model, after checking that it gives the same results.

    Args:
        model: A model in float32 on the CPU, with the class names and memory that `branch` needs.
        processor: Its processor.
        output: Folder to write: the graph, `detector.json`, and the package `anople_reader`.
        kind: `onnx`, `openvino`, or `torch` (`torch.export`, a .pt2 file).
        category: Search only this product's memory and use its thresholds; None takes photos of any product, as the
            model does.
        branch: As for `AnoPLeModel.forward`; None: the one that decides, both for a trained detector, the memory for
            an untrained one. Another one has no thresholds.
        photos: More photos for the check, in any form the processor accepts; drawn textures and noise are always used.
        overwrite: Replace an earlier export.

    Returns:
        The contents of `detector.json`, and `seconds`.

    Raises:
        ImportError: A package is missing; says what to install.
        ValueError: The model cannot be exported, or the graph gives different results.
        KeyError: Unknown category.
        FileExistsError: The output exists.

    Example:
        >>> import tempfile
        >>> model = AnoPLeModel.from_backbone("embedded:tiny-clip")
        >>> processor = AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config)
        >>> model.memorize(torch.rand(1, 3, 240, 240, generator=torch.Generator().manual_seed(0)), category="gear")
        >>> folder = Path(tempfile.mkdtemp()) / "gear"
        >>> report = export(model, processor, folder, kind="torch", branch="memory")
        >>> errors = report["parity"].get("scores")
        >>> errors["share of range"] < 0.001
        True
        >>> photo = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(1))
        >>> ExportedDetector.from_folder(folder)(photo)["heat_map"].shape
        (60, 80)
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: expected {', '.join(get_args(Kind))}.")
    branch = branch or model.decision_branch
    if branch == "prompt" and category is not None:
        raise ValueError(
            f"category={category!r} chooses a memory, and branch='prompt' has none: leave one of them out."
        )
    _require(kind)
    if model.training or model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(
            f"the model is in {'training' if model.training else 'evaluation'}, {model.dtype}, on {model.device}; a "
            "graph is made in evaluation, float32, on the CPU: "
            "AnoPLeModel.from_pretrained(..., dtype=torch.float32).eval()."
        )
    asked_for = model.memory.categories if category is None else [category]
    if framed := [name for name in asked_for if name in model.memory.framings]:
        raise ValueError(
            f"{', '.join(framed)}: taught with a region or tiles, which a graph does not cut: it takes whole views. "
            "Export another product with --product, or serve this one with `anople serve` or the pipeline."
        )
    started = time.perf_counter()
    about = {"format": FORMAT, "kind": kind, **_describe(model, processor, kind, category, branch)}
    with whole_folder(Path(output), overwrite=overwrite) as folder:
        graph = ScoringGraph(model, category, branch).eval()
        logger.info("tracing and converting to %s", kind)
        files = _write_graph(graph, kind, folder)
        about |= {"graph": files[0], "files": {name: file_digest(folder / name) for name in files}}
        about["bytes"] = sum((folder / name).stat().st_size for name in files)
        _write_json(folder, about)  # so that what is checked is what will be read
        asked = partial(judge, model, category=category, branch=branch)  # with its own search, not with the graph's
        about["parity"] = check_parity(asked, processor, ExportedDetector.from_folder(folder), photos)
        _write_json(folder, about)
        _write_reader(folder)
    return about | {"seconds": round(time.perf_counter() - started, 1)}


def _require(kind: Kind) -> None:
    missing = []
    for name in NEEDED[kind]:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise ImportError(f'exporting to {kind} needs {", ".join(missing)}: pip install "anople-hf[export]".')


def _describe(
    model: AnoPLeModel, processor: AnoPLeProcessor, kind: Kind, category: str | None, branch: Branch
) -> dict[str, Any]:
    """What the reader and a person need besides the graph."""
    config, memory, products = model.config, None, None

    def calibration(name: str | None, recognized: bool = False) -> dict[str, Any] | None:
        found = model.memory.thresholds_of(name, recognized=recognized) if branch == model.decision_branch else None
        return found.to_dict() if found else None

    if branch != "prompt":
        names = model.memory.categories if category is None else [category]
        memory = {
            "categories": {name: len(model.memory.references(name)) for name in names},
            "fingerprint": model.fingerprint(),
        }
        if category is None and config.memory_search == "product":
            products = [{"name": name, "calibration": calibration(name, True)} for name in names]
    outputs = {"scores": ["batch"], "anomaly_maps": ["batch", config.image_size, config.image_size]}
    outputs |= {"products": ["batch"]} if products else {}
    outputs |= {"strangeness": ["batch"]} if _knows_strange(model, category, branch) else {}
    packages = ("torch", "transformers", *NEEDED[kind])
    return {
        "category": category,
        "branch": branch,
        "labels": list(LABELS),
        "rule": RULE,
        "calibration": calibration(category),
        "products": products,
        "preprocessing": _preprocessing(processor, config.image_size),
        "ranges": {depth: list(ends) for depth, ends in model.memory.ranges(category).items()},
        "input": {"pixel_values": ["batch", 3, config.image_size, config.image_size]},
        "outputs": outputs,
        "memory": memory,
        "backbone": public_name(config.backbone) if config.backbone else None,
        "runtime": {"INFERENCE_PRECISION_HINT": "f32"} if kind == "openvino" else {},
        "versions": {
            "anople_hf": __version__,
            **{name: importlib.import_module(name).__version__ for name in packages},
        },
    }


def _knows_strange(model: AnoPLeModel, category: str | None, branch: Branch) -> bool:
    """Whether the graph can say how unlike its products a photo is: photos of one were judged for it."""
    names = model.memory.categories if category is None else [category]
    return branch != "prompt" and any(model.memory.product(name).familiar_within for name in names)


def _preprocessing(processor: AnoPLeProcessor, side: int) -> dict[str, Any]:
    """The preprocessing of `detector.py`, taken from the image processor."""
    how = processor.image_processor
    size = (how.size["height"], how.size["width"])
    if size != (side, side) or how.do_center_crop or not (how.do_resize and how.do_rescale and how.do_normalize):
        raise ValueError(
            f"the processor makes {size[0]} x {size[1]}, crop {how.do_center_crop}; expected {side} x {side}, "
            "resized without crop, scaled and normalized: use the processor of this model."
        )
    return {
        "color": "RGB",
        "size": side,
        "resample": int(how.resample),
        "resample_name": "bicubic" if int(how.resample) == 3 else "see PIL.Image.Resampling",
        "crop": False,
        "rescale": how.rescale_factor,
        "mean": list(how.image_mean),
        "std": list(how.image_std),
    }


def _write_graph(graph: ScoringGraph, kind: Kind, folder: Path) -> list[str]:
    """Trace, convert and write; return the file names, the graph's own first."""
    from transformers.exporters import DynamoExporter, OnnxExporter, OpenVINOExporter

    exporter: Any = {"onnx": OnnxExporter, "openvino": OpenVINOExporter, "torch": DynamoExporter}[kind]
    # Two photos, because torch.export would treat a batch of one as a constant.
    side = graph.model.config.image_size
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        graph(example)  # what is prepared on first use has to be, before tensors become symbols
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    with _silence():
        exported = exporter().export(graph, {"pixel_values": example}, exporter.config_class(dynamic_shapes=shapes))
        _drop_sources(exported.program, kind)
        exported.save_pretrained(folder)
    return exporter.program_files(f"{exporter.program_prefix}model{exporter.program_suffix}")


def _drop_sources(program: Any, kind: Kind) -> None:
    """Remove the source locations of the nodes: they are of no use to a reader, and name this machine's folders."""
    if kind == "onnx":
        for node in program.graph:
            node.metadata_props.clear()
    elif kind == "torch":
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Silence the exporters' prints, logs and version warnings; the check finds real errors."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "transformers")]
    levels = [found.level for found in loggers]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for found in loggers:
                found.setLevel(logging.ERROR)
            yield
        finally:
            for found, level in zip(loggers, levels, strict=True):
                found.setLevel(level)


def _write_json(folder: Path, about: dict[str, Any]) -> None:
    (folder / DETECTOR_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _write_reader(folder: Path) -> None:
    reader = folder / READER
    (reader / "export").mkdir(parents=True)
    (reader / "__init__.py").write_text(ENTRANCE, encoding="utf-8")
    for name in READER_FILES:
        (reader / name).write_bytes((Path(__file__).parents[1] / name).read_bytes())
