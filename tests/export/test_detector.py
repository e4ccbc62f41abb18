"""The reader of exported detectors: preprocessing, decisions, damaged folders; the graph here is a few lines."""

import ast
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import anople_hf
from anople_hf import AnoPLeConfig, AnoPLeOutput, AnoPLeProcessor
from anople_hf.export import ExportedDetector
from anople_hf.export.detector import DETECTOR_FILE, FORMAT, file_digest, resize_bilinear
from anople_hf.export.graph import READER_FILES
from anople_hf.images import UnreadableImageError
from anople_hf.scoring import resize_map

SIDE = 12
ABOUT = {
    "format": FORMAT,
    "preprocessing": {"size": SIDE, "resample": 3, "rescale": 1 / 255, "mean": [0.48, 0.46, 0.41], "std": [0.27] * 3},
    "calibration": {"threshold": 0.1, "pixel_threshold": 0.2},
    "labels": ["normal", "defective"],
}


def redness(pixels):
    return pixels[:, 0].mean(axis=(1, 2)), pixels[:, 0]


class Redness(torch.nn.Module):
    def forward(self, pixel_values):
        return {"scores": pixel_values[:, 0].mean(dim=(1, 2)), "anomaly_maps": pixel_values[:, 0]}


@pytest.fixture
def folder(tmp_path):
    """A small graph as torch exports it, in a folder as `anople export` writes it."""
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(
        Redness(), (), {"pixel_values": torch.zeros(2, 3, SIDE, SIDE)}, dynamic_shapes=shapes
    )
    torch.export.save(program, tmp_path / "model.pt2")
    about = ABOUT | {
        "kind": "torch",
        "graph": "model.pt2",
        "outputs": {"scores": ["batch"], "anomaly_maps": ["batch", SIDE, SIDE]},
        "files": {"model.pt2": file_digest(tmp_path / "model.pt2")},
    }
    (tmp_path / DETECTOR_FILE).write_text(json.dumps(about))
    return tmp_path


def test_a_folder_is_opened_and_judges(folder):
    detector = ExportedDetector.from_folder(folder)
    red = np.full((30, 40, 3), (255, 0, 0), np.uint8)
    bad, good = detector([red, np.zeros_like(red)])
    assert bad["label"] == "defective" and bad["mask"].all() and bad["regions"][0]["box"] == (0, 0, 40, 30)
    assert good["label"] == "normal" and not good["mask"].any() and good["regions"] == []
    assert detector(red)["score"] == bad["score"]


def test_thresholds_may_be_moved_and_may_be_missing():
    photo = np.full((20, 20, 3), 255, np.uint8)
    detector = ExportedDetector(ABOUT, redness)
    assert detector(photo)["label"] == "defective"
    detector.threshold = 9.0
    assert detector(photo)["label"] == "normal" and not detector(photo)["mask"].any()
    for missing in (None, {}, {"threshold": 0.1}):
        result = ExportedDetector(ABOUT | {"calibration": missing}, redness)(photo)
        assert result["label"] == ("defective" if missing else None) and not result["mask"].any()


def test_what_is_unlike_everything_taught_is_called_so():
    photos = [np.full((20, 20, 3), level, np.uint8) for level in (0, 255)]

    def run(pixels):
        return *redness(pixels), np.array([1.0, np.float32(1.0001)], np.float32)

    about = ABOUT | {"outputs": {"scores": [], "anomaly_maps": [], "strangeness": []}}
    detector = ExportedDetector(about, run)
    assert [found["label"] for found in detector(photos)] == ["normal", "unknown product"]
    assert not detector(photos)[1]["mask"].any()
    assert [found["label"] for found in detector(photos, unknown=False)] == ["normal", "defective"]
    detector.threshold = detector(photos)[1]["score"] / 1.05
    assert detector(photos, unknown=False, gray_zone=0.1)[1]["label"] == "uncertain"


def test_small_regions_are_left_out():
    photo = np.zeros((SIDE, SIDE, 3), np.uint8)
    photo[:2, :2] = photo[6:, 6:] = 255
    detector = ExportedDetector(ABOUT | {"calibration": {"threshold": -9, "pixel_threshold": 1.0}}, redness)
    assert [region["area"] for region in detector(photo)["regions"]] == [36]
    assert sorted(region["area"] for region in detector(photo, min_region=1)["regions"]) == [4, 36]


@pytest.fixture(scope="module")
def processor():
    return AnoPLeProcessor.from_backbone("embedded:tiny-clip", AnoPLeConfig())


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P", "1", "I;16"]),
    seed=st.integers(0, 9), levels=st.sampled_from([2, 256]),
)  # fmt: skip
def test_views_are_the_processors_bit_by_bit(processor, height, width, mode, seed, levels):
    values = np.random.default_rng(seed).integers(0, levels, (height, width, 3), dtype=np.uint8)
    photo = Image.fromarray(values)
    photo = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == "I;16" else photo.convert(mode)
    how = processor.image_processor
    about = ABOUT | {
        "preprocessing": {"size": 240, "resample": int(how.resample), "rescale": how.rescale_factor,
                          "mean": how.image_mean, "std": how.image_std},
    }  # fmt: skip
    views = ExportedDetector(about, redness).prepare([photo])
    assert views.dtype == np.float32 and np.array_equal(views, processor(images=photo)["pixel_values"].numpy())


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(st.integers(1, 60), st.integers(1, 60)), new=st.tuples(st.integers(1, 200), st.integers(1, 200)))
def test_resizing_is_torchs(old, new):
    values = np.random.default_rng(0).random(old, dtype=np.float32)
    assert np.allclose(resize_bilinear(values, new), resize_map(torch.from_numpy(values)[None], new)[0], atol=2e-6)


def test_decisions_are_the_processors(processor):
    """Whatever the scores: the same maps through both, at thresholds that float32 cannot hold."""
    maps = np.random.default_rng(0).random((4, SIDE, SIDE), dtype=np.float32) ** 4
    scores = np.array([0.1, np.float32(0.1) + np.float32(1e-8), 0.2, 0.05], np.float32)
    detector = ExportedDetector(ABOUT, lambda pixels: (scores, maps))
    photos = [np.zeros(shape, np.uint8) for shape in ((30, 50, 3), (12, 12, 3), (9, 40, 3), (100, 20, 3))]
    limits = torch.tensor([0.1]).expand(4), torch.tensor([0.2]).expand(4)
    outputs = AnoPLeOutput(
        scores=torch.from_numpy(scores), anomaly_maps=torch.from_numpy(maps), thresholds=limits[0],
        pixel_thresholds=limits[1],
    )  # fmt: skip
    expected = processor.post_process(outputs, [photo.shape[:2] for photo in photos], unknown=False)
    for theirs, ours in zip(detector(photos), expected, strict=True):
        for a, b in zip(theirs["regions"], ours["regions"], strict=True):
            assert (a["box"], a["area"], a["peak"]) == (b["box"], b["area"], pytest.approx(b["peak"], abs=1e-6))
        assert [theirs[key] for key in ("label", "score", "threshold", "pixel_threshold")] == [
            ours[key] for key in ("label", "score", "threshold", "pixel_threshold")
        ]


def test_wrong_input_is_told(tmp_path):
    detector = ExportedDetector(ABOUT, redness)
    for shape in ((3, SIDE, SIDE), (1, 3, SIDE, SIDE + 1), (0, 3, SIDE, SIDE), (1, 1, SIDE, SIDE)):
        with pytest.raises(ValueError, match=rf"expected \(batch, 3, {SIDE}, {SIDE}\)"):
            detector.score(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="photos is empty"):
        detector([])
    (tmp_path / "half.png").write_bytes(b"\x89PNG")
    with pytest.raises(UnreadableImageError, match="half.png"):
        detector(tmp_path / "half.png")


def test_no_detector_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no detector.json.*anople export"):
        ExportedDetector.from_folder(tmp_path)


def test_damage_is_told(folder):
    graph, about = folder / "model.pt2", (folder / DETECTOR_FILE).read_text()
    content = graph.read_bytes()
    for changed in (content[:-1], content[:50] + bytes([content[50] ^ 1]) + content[51:]):
        graph.write_bytes(changed)
        with pytest.raises(ValueError, match="model.pt2 is missing or not as it was exported"):
            ExportedDetector.from_folder(folder)
    graph.unlink()
    with pytest.raises(ValueError, match="model.pt2 is missing"):
        ExportedDetector.from_folder(folder)
    (folder / DETECTOR_FILE).write_text(about[:-5])
    with pytest.raises(ValueError, match="detector.json is damaged"):
        ExportedDetector.from_folder(folder)
    (folder / DETECTOR_FILE).write_text(about.replace(FORMAT, "anople-detector/1"))
    graph.write_bytes(content)
    assert ExportedDetector.from_folder(folder)(np.zeros((9, 9, 3), np.uint8))["label"] == "normal"
    (folder / DETECTOR_FILE).write_text(about.replace(FORMAT, "anople-detector/9"))
    with pytest.raises(ValueError, match=f"format 'anople-detector/9', this program reads '{FORMAT}'"):
        ExportedDetector.from_folder(folder)


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino"), ("torch", "torch")])
def test_a_missing_runtime_is_named(kind, package, folder, monkeypatch):
    about = json.loads((folder / DETECTOR_FILE).read_text()) | {"kind": kind}
    (folder / DETECTOR_FILE).write_text(json.dumps(about))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        ExportedDetector.from_folder(folder)


def test_openvino_serves_several_threads(tmp_path):
    """One request, many callers: each gets the answer to its own photo, and keeps it."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    views = ops.parameter([-1, 3, SIDE, SIDE], np.float32, name="pixel_values")
    views.output(0).set_names({"pixel_values"})
    red = ops.gather(views, ops.constant(0), ops.constant(1))
    scores = ops.reduce_mean(red, ops.constant([1, 2]), keep_dims=False)
    for node, name in ((scores, "scores"), (red, "anomaly_maps")):
        node.output(0).set_names({name})
    openvino.save_model(openvino.Model([scores, red], [views], "red"), tmp_path / "m.xml", compress_to_fp16=False)
    files = {name: file_digest(tmp_path / name) for name in ("m.xml", "m.bin")}
    about = ABOUT | {"kind": "openvino", "graph": "m.xml", "files": files, "outputs": ["scores", "anomaly_maps"]}
    (tmp_path / DETECTOR_FILE).write_text(json.dumps(about))
    detector = ExportedDetector.from_folder(tmp_path, threads=1)
    wrong = []

    def ask(level):
        views = np.full((1 + level, 3, SIDE, SIDE), level, np.float32)
        kept = [detector.score(views) for _ in range(50)]
        wrong.extend(1 for scores, maps, *_ in kept if not (np.all(scores == level) and np.all(maps == level)))

    callers = [threading.Thread(target=ask, args=(level,)) for level in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_the_readers_files_import_nothing_heavy():
    """They are copied to machines that have numpy, pillow and scipy."""
    light = {"numpy", "PIL", "scipy"} | set(sys.stdlib_module_names)
    for name in READER_FILES:
        tree = ast.parse((Path(anople_hf.__file__).parent / name).read_text())
        for node in tree.body:  # what a function imports is imported when it is called
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= light
            elif isinstance(node, ast.ImportFrom):
                known = (f"{node.module}.py" in READER_FILES) if node.level else node.module.split(".")[0] in light
                assert known, f"{name} imports {node.module}"


def test_deep_photos_are_read_by_the_range_in_the_folder(tmp_path, caplog):
    gray = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    Image.fromarray(np.rint(gray * (4095 / 255)).astype(np.uint16)).save(tmp_path / "deep.png")
    detector = ExportedDetector(ABOUT | {"ranges": {"uint16": [0, 4095]}}, redness)
    views = detector.prepare([tmp_path / "deep.png", gray])
    assert np.abs(views[0] - views[1]).max() < 1.01 / 255 / 0.26  # a level, in deviations of CLIP's pixels
    assert "its depth is uint8" in caplog.text
