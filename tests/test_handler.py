"""`handler.py` of a pushed repository, called as the inference toolkit of the Hub's endpoints calls it."""

import base64
import io
import json
import tomllib
from pathlib import Path

import pytest
import torch
from hub_server import start
from huggingface_hub import snapshot_download
from PIL import Image

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.hub import REQUIREMENTS
from anople_hf.images import read_image
from anople_hf.teaching import set_threshold

REPO = "me/line1"
TOOLKIT = """
import base64, importlib.util, io, json, sys
from pathlib import Path
from PIL import Image

# As the toolkit does: the folder is on the path, the file is a module by itself, its class gets the folder.
folder = sys.path[0] = str(Path("repository").resolve())
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", Path(folder) / "handler.py")
module = sys.modules["handler.EndpointHandler"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
assert type(handler.detector).__module__.startswith("transformers_modules.")

paths = [Path("bad.png"), Path("good.png")]
raw = [path.read_bytes() for path in paths]
text = [base64.b64encode(content).decode() for content in raw]
answers = {
    "PIL": handler({"inputs": Image.open(paths[0])}),  # a request whose body is an image
    "bytes": handler({"inputs": raw[0]}),
    "base64": handler({"inputs": text[0]}),
    "data URL": handler({"inputs": "data:image/png;base64," + text[0]}),
    "list": handler({"inputs": text, "parameters": {"product": "capsule", "mask": True}}),
    "threshold": handler({"inputs": text[0], "parameters": {"threshold": 1e9}}),
    "errors": [],
}
for wrong in ({}, {"inputs": "/etc/hostname"}, {"inputs": []}, {"inputs": base64.b64encode(b"text").decode()},
              {"inputs": text, "parameters": {"product": "nut"}}, {"inputs": text, "parameters": {"top_k": 5}}):
    try:
        handler(wrong)
    except ValueError as error:
        answers["errors"].append(str(error))
print(json.dumps(answers))  # as the toolkit sends it
"""


def test_an_endpoint_answers_as_the_detector_does(tiny_clip, drawn, online, tmp_path):
    model = AnoPLeModel.from_backbone(tiny_clip).eval()
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({"capsule": "capsule"}, **processor.class_prompts(["capsule"]))
    good = [read_image(path) for path in sorted((drawn / "capsule/train/good").iterdir())]
    model.teach(processor(images=good[:2])["pixel_values"], "capsule", views=2)
    bad = good[0].copy()
    bad.paste("white", (20, 30, 60, 60))
    with torch.inference_mode():
        between = model(processor(images=[bad, good[2]])["pixel_values"], category="capsule").scores.mean().item()
    set_threshold(model, "capsule", between)
    model.push_to_hub(REPO, processor=processor)
    snapshot_download(REPO, local_dir=tmp_path / "repository")
    bad.save(tmp_path / "bad.png")
    good[2].save(tmp_path / "good.png")

    answers = json.loads(start(TOOLKIT, online, tmp_path, installed=False, HF_MODULES_CACHE=str(tmp_path / "code")))

    photos = [bad, good[2]]
    sizes = [photo.size[::-1] for photo in photos]
    with torch.inference_mode():
        pixels = processor(images=photos)["pixel_values"]
        untold = processor.post_process(model(pixels), sizes)
        told = processor.post_process(model(pixels, category="capsule"), sizes)
    for name in ("PIL", "bytes", "base64", "data URL"):
        assert len(answers[name]) == 1
        assert answers[name][0]["score"] == pytest.approx(untold[0]["score"], rel=1e-5), name
        assert answers[name][0]["label"] == untold[0]["label"]
    assert answers["threshold"][0]["label"] == "normal" and answers["threshold"][0]["threshold"] == 1e9
    for verdict, wanted in zip(answers["list"], told, strict=True):
        assert verdict["product"] == "capsule" and verdict["label"] == wanted["label"]
        assert verdict["score"] == pytest.approx(wanted["score"], rel=1e-5)
        assert [tuple(box["box"].values()) for box in verdict["boxes"]] == [r["box"] for r in wanted["regions"]]
        mask = Image.open(io.BytesIO(base64.b64decode(verdict["mask"])))
        assert mask.size == bad.size and (mask.getextrema()[1] > 0) == wanted["mask"].any()
    assert {verdict["label"] for verdict in answers["list"]} == {"normal", "defective"}
    assert any(verdict["boxes"] for verdict in answers["list"])
    missing, path, empty, text, product, parameter = answers["errors"]
    assert "inputs" in missing and "inputs" in empty
    assert "photo 1 is no base64" in path and "photo 1" in text
    assert "known: capsule" in product and "top_k" in parameter


def test_an_endpoint_installs_what_the_package_asks_for():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(REQUIREMENTS) < set(project["dependencies"])
