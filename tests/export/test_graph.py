"""Exported detectors decide as the model does, on real runtimes; what differs is never written."""

import copy
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sizes import SIDE
from transformers.exporters import ExportedModel

import anople_hf
from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf import matching as nearest
from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.export import ExportedDetector, export
from anople_hf.export import graph as export_module
from anople_hf.export.detector import DETECTOR_FILE
from anople_hf.export.graph import READER, ScoringGraph
from anople_hf.teaching import by_hand, teach
from anople_hf.thresholds import Thresholds

KINDS = ("onnx", "openvino", "torch")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's exporters, of torch's own treespec


def some_photos(count=6, seed=0):
    """Photos of every size and kind, some smaller than a view."""
    rng = np.random.default_rng(seed)
    sizes = [(20, 31), (48, 48), (97, 60), (64, 200), (48, 70, 4), (30, 30, 1)]
    shapes = [size if len(size) == 3 else (*size, 3) for size in sizes]
    return [rng.integers(0, 256, shapes[i % len(shapes)], dtype=np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def taught(tiny_clip):
    """A model with two products and thresholds, used in inference mode before, as an app does; and its processor."""
    torch.manual_seed(0)
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({"gear": "gear", "nut": "nut"}, **processor.class_prompts(["gear", "nut"]))
    shots = {name: processor(images=some_photos(2, seed))["pixel_values"] for seed, name in enumerate(["gear", "nut"])}
    with torch.inference_mode():
        for name, pixels in shots.items():
            model.memorize(pixels, category=name)
        teach(model, shots, views=2)
        model(shots["gear"])
    return model, processor


@pytest.fixture(scope="module")
def exported(taught, tmp_path_factory):
    """Folder and report of a kind, searching all products in parts; each is exported once, and changes nothing."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("exported") / kind
            before, names = in_torch(taught, some_photos(3)), list(taught[0].state_dict())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(nearest, "PART", 10)  # of 36 patches
                made[kind] = folder, export(*taught, folder, kind=kind, photos=some_photos(2, 5))
            after = in_torch(taught, some_photos(3))
            assert torch.equal(before.scores, after.scores) and torch.equal(before.anomaly_maps, after.anomaly_maps)
            assert list(taught[0].state_dict()) == names
        return made[kind]

    return get


def in_torch(taught, photos, category=None):
    model, processor = taught
    with torch.inference_mode():
        return model(processor(images=photos)["pixel_values"], category=category)


def between(scores):
    """A threshold far from every score, with scores on both sides."""
    ordered = np.sort(np.asarray(scores))
    widest = np.diff(ordered).argmax()
    return float(ordered[widest : widest + 2].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_the_model_and_its_processor(kind, taught, exported):
    photos = some_photos(6, 9)
    outputs = in_torch(taught, photos)
    detector = ExportedDetector.from_folder(exported(kind)[0], threads=1)
    assert (detector.threshold, detector.pixel_threshold) == pytest.approx(
        (outputs.thresholds[0].item(), outputs.pixel_thresholds[0].item()), rel=1e-6
    )
    detector.threshold = between(outputs.scores)
    detector.pixel_threshold = float(outputs.anomaly_maps.median())
    sizes = [photo.shape[:2] for photo in photos]
    limits = {"thresholds": detector.threshold, "pixel_thresholds": detector.pixel_threshold}
    expected = taught[1].post_process(outputs, sizes, unknown=False, **limits)
    assert {result["label"] for result in expected} == {"normal", "defective"}
    strangeness = detector.score(detector.prepare(photos)).strangeness
    assert np.allclose(strangeness, outputs.strangeness, rtol=1e-4) and outputs.strangeness.std() > 0.01
    for theirs, ours in zip(detector(photos, unknown=False), expected, strict=True):
        assert set(theirs) == set(ours) | {"category"} and theirs["category"] is None
        assert theirs["score"] == pytest.approx(ours["score"], abs=1e-6)
        assert (theirs["label"], theirs["threshold"]) == (ours["label"], ours["threshold"])
        assert theirs["heat_map"].dtype == np.float32 and theirs["mask"].dtype == bool
        assert np.allclose(theirs["heat_map"], ours["heat_map"], atol=1e-6)
        assert not ((theirs["mask"] != ours["mask"]) & (abs(ours["heat_map"] - ours["pixel_threshold"]) > 1e-6)).any()
        assert [r["box"] for r in theirs["regions"]] == [r["box"] for r in ours["regions"]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_size_gives_the_same(kind, exported):
    detector = ExportedDetector.from_folder(exported(kind)[0], threads=1)
    pixels = detector.prepare(some_photos(5, 3))
    scores, maps, *_ = detector.score(pixels)
    assert scores.shape == (5,) and maps.shape == (5, SIDE, SIDE)
    for size in (1, 2, 3):
        fewer, smaller, *_ = detector.score(pixels[:size])
        assert np.allclose(fewer, scores[:size], atol=1e-6) and np.allclose(smaller, maps[:size], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_what_was_checked(kind, exported):
    folder, report = exported(kind)
    written = json.loads((folder / DETECTOR_FILE).read_text())
    assert written == {name: value for name, value in report.items() if name != "seconds"}
    parity = report["parity"]
    assert parity["photos"] == 9 and {1, 3} <= set(parity["batches"]) and parity["pixels"]["largest error"] == 0
    for name in ("scores", "maps"):
        assert 0 <= parity[name]["largest error"] < 1e-6 and parity[name]["range"] > 0.01
    assert parity["decisions"] == parity["unknown"] == {"different": 0, "ties": 0}
    assert 0 <= parity["strangeness"]["share of range"] < 1e-4 and list(report["outputs"])[-1] == "strangeness"
    assert report["memory"]["categories"] == {"gear": 2, "nut": 2}
    assert report["preprocessing"]["size"] == SIDE and report["preprocessing"]["resample_name"] == "bicubic"
    assert report["bytes"] == sum((folder / name).stat().st_size for name in report["files"])


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_the_folder(kind, taught, exported):
    photos = some_photos(3, 4)
    folder, report = exported(kind)
    settings = {"config": report["runtime"]} if report["runtime"] else {}  # what `detector.json` says
    outputs = ExportedModel.from_pretrained(folder, **settings)(**taught[1](images=photos))
    assert torch.allclose(outputs["scores"], in_torch(taught, photos).scores, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_names_a_folder_of_this_machine(kind, exported, tiny_clip):
    folder, _ = exported(kind)
    named = (anople_hf.__file__, torch.__file__, __file__, tiny_clip, folder)
    ours = [str(Path(name).parent) for name in named]
    for path in folder.rglob("*.*"):
        content = path.read_bytes()
        assert not [name for name in ours if name.encode() in content], path.name


def test_openvino_is_told_to_stay_in_float32(exported):
    """In the graph, and in `detector.json` for programs that open it themselves.

    OpenVINO's CPU (2026.4) does not read the graph's: a processor that multiplies bfloat16 takes that unless asked.
    """
    folder, report = exported("openvino")
    options = ET.parse(folder / report["graph"]).getroot().find("./rt_info/runtime_options")
    assert options.find("INFERENCE_PRECISION_HINT").get("value") == "f32"
    assert report["runtime"] == {"INFERENCE_PRECISION_HINT": "f32"}


def test_a_line_needs_no_torch(taught, exported, tmp_path):
    """The reader in the folder, in a process where torch, transformers and this package cannot be imported."""
    folder = tmp_path / "line"
    shutil.copytree(exported("onnx")[0], folder)
    np.save(tmp_path / "photo.npy", some_photos(1)[0])
    program = """
import sys
for name in ("torch", "transformers", "anople_hf", "safetensors", "huggingface_hub", "onnx"):
    sys.modules[name] = None
sys.path.insert(0, "line")
import numpy
from anople_reader import ExportedDetector
print(repr(ExportedDetector.from_folder("line")(numpy.load("photo.npy"))["score"]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(in_torch(taught, some_photos(1)).scores.item(), abs=1e-6)


def test_a_model_without_class_names_has_its_memory(tiny_clip, tmp_path):
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    pixels = processor(images=some_photos(3))["pixel_values"]
    with pytest.raises(ValueError, match="memory bank"):
        export(model, processor, tmp_path / "out", kind="torch", branch="memory")
    model.memorize(pixels, category="gear")
    with pytest.raises(ValueError, match="class names"):
        export(model, processor, tmp_path / "out", kind="torch", branch="both")
    assert not any(tmp_path.iterdir())
    export(model, processor, tmp_path / "out", kind="torch", branch="memory")
    result = ExportedDetector.from_folder(tmp_path / "out")(some_photos(4)[3])
    with torch.inference_mode():
        expected = model(processor(images=some_photos(4)[3])["pixel_values"], branch="memory")
    assert result["score"] == pytest.approx(expected.scores.item(), abs=1e-6)
    assert result["label"] is None and result["threshold"] is None and not result["regions"]


@pytest.mark.parametrize(("change", "kind"), [(1e-3, "onnx"), (1e-3, "openvino"), (float("nan"), "onnx")])
def test_a_graph_that_differs_is_refused_and_nothing_is_left(change, kind, taught, exported, tmp_path, monkeypatch):
    """What is written is the graph of a model that differs in one bias."""
    folder, report = exported(kind)

    def write_another(graph, kind, work):
        for name in report["files"]:
            shutil.copy(folder / name, work)
        return list(report["files"])

    monkeypatch.setattr(export_module, "_write_graph", write_another)
    other = copy.deepcopy(taught[0])
    export(other, taught[1], tmp_path / "same", kind=kind)
    export(other, taught[1], tmp_path / "same", kind=kind, overwrite=True)
    shutil.rmtree(tmp_path / "same")
    other.clip.vision_model.post_layernorm.bias.data += change
    with pytest.raises(ValueError, match="does not give torch's results on 7 photos: scores differ by"):
        export(other, taught[1], tmp_path / "out", kind=kind)
    assert not any(tmp_path.iterdir())


def test_a_memory_that_torch_searches_coarsely_is_searched_exactly(taught, monkeypatch):
    """A graph also runs without bfloat16. In torch the coarse search only finds candidates: the numbers are equal."""
    model, processor = taught
    pixels = processor(images=some_photos(3))["pixel_values"]
    exact = model(pixels).memory_maps
    monkeypatch.setattr(nearest, "LARGE", 4)
    monkeypatch.setattr(nearest, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setitem(model._modules, "memory", model.memory.without(()))  # prepared anew
    graph = ScoringGraph(model, None, "both")
    assert torch.equal(graph.model(pixels).memory_maps, exact)
    assert torch.allclose(model(pixels).memory_maps, exact, atol=1e-6)
    searched, exactly = (bank._matcher._search(None)[0] for bank in (model.memory, graph.model.memory))
    assert searched._coarse is not None and exactly._coarse is None


def test_the_embedded_backbone_routed_to_one_product(tmp_path):
    """Three photos at 16 places: 10,800 patches in three parts, without the other product. As ONNX: docs/export.md."""
    model = AnoPLeModel.from_backbone("embedded:tiny-clip")
    processor = AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config)
    model.set_class_names({"capsule": "capsule"}, **processor.class_prompts(["capsule"]))
    capsules = [render(PRODUCTS["capsule"], [0, number], 128) for number in range(5)]
    model.memorize(processor(images=capsules[:3])["pixel_values"], category="capsule")
    model.memorize(processor(images=capsules[3:4])["pixel_values"], category="another")
    model.memory.update("capsule", thresholds=Thresholds(0.5, 0.5))
    model.memory.common = Thresholds(0.25, 0.25)
    report = export(model, processor, tmp_path / "out", kind="torch", category="capsule", photos=capsules)
    assert report["parity"]["scores"]["share of range"] < 1e-4
    assert report["memory"]["categories"] == {"capsule": 3}
    detector = ExportedDetector.from_folder(tmp_path / "out", threads=1)
    assert detector.threshold == 0.5
    scores = [result["score"] for result in detector(capsules)]
    with torch.inference_mode():
        pixels = processor(images=capsules)["pixel_values"]
        routed = model(pixels, category="capsule").scores
        model.config.memory_search = "all"
        shared = model(pixels).scores
    assert scores == pytest.approx(routed.tolist(), abs=1e-6)
    assert abs(scores[3] - shared[3].item()) > 1e-5  # the other product knows this photo


@pytest.mark.parametrize("kind", KINDS)
def test_a_recognized_product_is_decided_by_its_own_thresholds(kind, taught, tmp_path):
    """What the embedded backbone does with photos of any product; each product has another threshold, or none."""
    model, processor = copy.deepcopy(taught[0]), taught[1]
    model.config.memory_search = "product"
    shots = [photo for seed in (0, 1) for photo in some_photos(2, seed)]
    photos = [*shots, *some_photos(4, 7)]
    model.memory.common = by_hand(model.memory.thresholds_of(), 0.0)
    model.memory.update("nut", thresholds=by_hand(model.memory.thresholds_of("nut"), 9.0))
    model.memory.update("gear", thresholds=None, judged={})  # so that nobody knows how far its photos reach
    report = export(model, processor, tmp_path / "out", kind=kind, photos=photos)
    assert report["parity"]["products"] == {"different": 0}
    assert report["parity"]["decisions"] == {"different": 0, "ties": 0}
    assert [product["name"] for product in report["products"]] == ["gear", "nut"]

    with torch.inference_mode():
        outputs = model(processor(images=photos)["pixel_values"])
    assert model.memory.names(outputs.products[:4]) == ["gear", "gear", "nut", "nut"]
    detector = ExportedDetector.from_folder(tmp_path / "out", threads=1)
    expected = processor.post_process(outputs, [photo.shape[:2] for photo in photos], unknown=False)
    strangeness = detector.score(detector.prepare(photos)).strangeness
    assert np.allclose(strangeness, outputs.strangeness, rtol=1e-4, atol=1e-6, equal_nan=True)
    assert np.isnan(strangeness[:2]).all() and not np.isnan(strangeness[2:4]).any()
    told = detector(photos, unknown=False)
    for theirs, ours, name in zip(told, expected, model.memory.names(outputs.products), strict=True):
        assert theirs["category"] == name
        assert theirs["label"] == ours["label"] == {"gear": "defective", "nut": "normal"}[name]
        assert theirs["threshold"] == pytest.approx(ours["threshold"]) == {"gear": 0.0, "nut": 9.0}[name]
        assert theirs["pixel_threshold"] == pytest.approx(ours["pixel_threshold"])
        assert theirs["score"] == pytest.approx(ours["score"], abs=1e-6)
        assert np.allclose(theirs["heat_map"], ours["heat_map"], atol=1e-6)
    detector.threshold = 5.0  # for all
    assert {result["threshold"] for result in detector(photos)} == {5.0}


def test_an_unknown_product_is_called_so_as_predict_does(taught, tmp_path):
    """Told which product it should be; where the photos fall is set between them."""
    model, processor = copy.deepcopy(taught[0]), taught[1]
    photos = [*some_photos(2, 0), *some_photos(2, 1), *some_photos(6, 7)]
    pixels = processor(images=photos)["pixel_values"]
    known = model.memory.product("gear")
    reach = between(model(pixels, category="gear").strangeness.detach())
    judged = {digest: replace(found, distances=(found.distance * reach,)) for digest, found in known.judged.items()}
    model.memory.update("gear", judged=judged)
    report = export(model, processor, tmp_path / "out", kind="onnx", category="gear", photos=photos)
    assert report["parity"]["unknown"] == {"different": 0, "ties": 0}
    with torch.inference_mode():
        expected = [found["label"] for found in processor.post_process(model(pixels, category="gear"))]
    detector = ExportedDetector.from_folder(tmp_path / "out", threads=1)
    assert [found["label"] for found in detector(photos)] == expected
    assert "unknown product" in expected and len(set(expected)) > 1
    assert "unknown product" not in [found["label"] for found in detector(photos, unknown=False)]


def test_what_cannot_be_exported_is_told(taught, tmp_path, tiny_clip):
    model, processor = taught
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="expected onnx, openvino, torch"):
        export(model, processor, out, kind="tensorrt")
    with pytest.raises(KeyError, match="known: gear, nut"):
        export(model, processor, out, category="bolt")
    with pytest.raises(ValueError, match="has none"):
        export(model, processor, out, category="nut", branch="prompt")
    with pytest.raises(ValueError, match="float16"):
        export(AnoPLeModel.from_backbone(tiny_clip).half(), processor, out)
    with pytest.raises(ValueError, match="in training"):
        export(AnoPLeModel.from_backbone(tiny_clip).train(), processor, out)
    other = AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config)
    with pytest.raises(ValueError, match=f"240 x 240.*expected {SIDE} x {SIDE}"):
        export(model, other, out)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_missing_package_is_named(kind, package, taught, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "anople-hf\[export\]"'):
        export(*taught, tmp_path / "out", kind=kind)


def test_an_output_in_the_way_stays(taught, tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileExistsError, match="not written by anople"):
        export(*taught, tmp_path, kind="torch", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_reader_is_the_packages_own(exported):
    reader = exported("onnx")[0] / READER
    for path in reader.rglob("[!_]*.py"):
        assert path.read_bytes() == (Path(anople_hf.__file__).parent / path.relative_to(reader)).read_bytes()
    assert sorted(path.relative_to(reader).as_posix() for path in reader.rglob("*.py")) == [
        "__init__.py",
        "decisions.py",
        "export/detector.py",
        "images.py",
        "photos.py",
        "ranges.py",
    ]


def test_the_check_asks_the_model_with_the_search_that_predict_uses(taught, tmp_path, monkeypatch):
    """Not the graph's exact one: on a processor that multiplies bfloat16 the two have to agree, too."""
    model, processor = copy.copy(taught[0]), taught[1]
    model._modules = taught[0]._modules | {"memory": taught[0].memory.renamed(str)}  # with nothing prepared
    asked, searched, coarsely = [], [], nearest.NearestPatch._coarsely
    monkeypatch.setattr(nearest, "LARGE", 1)
    monkeypatch.setattr(nearest, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(nearest.NearestPatch, "_coarsely", lambda self, q: searched.append(1) or coarsely(self, q))
    monkeypatch.setattr(export_module, "check_parity", lambda graph, *_: asked.append(graph) or {})
    export(model, processor, tmp_path / "out", kind="torch")
    assert not searched
    pixels = processor(images=some_photos(3))["pixel_values"]
    with torch.inference_mode():
        found = asked[0](pixels)
        assert searched and torch.equal(found["scores"], model(pixels).scores)
        exact = ScoringGraph(model, None, "both")(pixels)
    for name in ("scores", "anomaly_maps"):
        assert torch.allclose(found[name], exact[name], rtol=0, atol=1e-5)
