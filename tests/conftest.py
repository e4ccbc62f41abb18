"""Shared pieces: a tiny random CLIP on disk, a model around it, and a small drawn data set. No network."""

import gc
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from hub_server import TOKEN, HubServer
from huggingface_hub import constants
from PIL import ImageFile
from sizes import SIDE
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from warm_start import WarmStart

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.data.drawn import draw_dataset

LONGEST = ("test_docs", "test_export", "test_interface")


def pytest_collection_modifyitems(items):
    """The longest files first, so that several processes end together."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    gc.freeze()  # the libraries stay: looking through them for garbage, again and again, takes minutes
    gc.set_threshold(50_000)
    torch.set_num_threads(min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """Folder of a random 4-layer CLIP with 3 x 3 patches and a byte-level tokenizer; different widths on purpose."""
    folder = tmp_path_factory.mktemp("tiny_clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [".", *"0123456789"]
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=40)
    config = CLIPConfig(
        projection_dim=24,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 16,
        },
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 40,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    torch.manual_seed(0)
    clip = CLIPModel(config)
    with torch.no_grad():  # the stock initialization is so small that every image looks alike
        for parameter in clip.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size=size, do_center_crop=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_model(tiny_clip):
    """Build a model around the tiny CLIP with any settings, text vectors set."""

    def make(seed=0, names=("gear", "nut"), **settings):
        torch.manual_seed(seed)
        model = AnoPLeModel.from_backbone(tiny_clip, **settings)
        processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
        return model.set_class_names({name: name for name in names}, **processor.class_prompts(list(names)))

    return make


@pytest.fixture
def processor(tiny_clip, make_model):
    return AnoPLeProcessor.from_backbone(tiny_clip, make_model().config)


@pytest.fixture
def photos():
    return torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def decoded(monkeypatch):
    """How often each file was decoded: where Pillow turns its bytes into pixels."""
    counts, load = Counter(), ImageFile.ImageFile.load

    def counted(image):
        if image.tile and image.filename:
            counts[Path(image.filename)] += 1
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return counts


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A small drawn data set in the MVTec layout."""
    root = tmp_path_factory.mktemp("drawn")
    draw_dataset(root / "data", train=5, test_good=3, test_defective=4, size=96, seed=3)
    return root / "data"


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Environment in which `anople`, `python`, `torchrun` and `accelerate` start warm: one thread, no GPU, one Hub.

    `subprocess.run(["anople", ...], env=warm)` finds them by its PATH.
    """
    folder = tmp_path_factory.mktemp("warm")
    with HubServer() as server:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / ".hf"), "HF_TOKEN": TOKEN}
        environment |= {"HF_HUB_DISABLE_XET": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
        with WarmStart(folder / "bin", environment) as commands:
            yield environment | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def online(hub, monkeypatch, tmp_path):
    """This process talks to the stand-in, with a cache of its own; waiting between retries takes no time."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def receiver():
    """A program that a webhook tells; answers `answers` in turn, then 200. `accepted` holds (body, headers)."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = self.server.answers.pop(0) if self.server.answers else 200
            self.server.asked.append(json.loads(body)["path"])
            if status == 200:
                self.server.accepted.append((body, dict(self.headers)))
            if status:
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.answers, server.accepted, server.asked = [], [], []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
