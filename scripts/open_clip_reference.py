"""Records results of open_clip itself, to check the conversion: full-size models, and the small fixture of the tests.

open_clip needs torchvision, which this package does without, so this script runs in its own environment. Matching CPU
wheels of torchvision are not always available. The CUDA wheels also work, because only their Python part is used:

    python -m venv reference && . reference/bin/activate
    pip install -c constraints.txt torch transformers pillow scipy ftfy
    pip install --no-deps torchvision==0.28.0 timm open_clip_torch==3.3.0
    PYTHONPATH=src python scripts/open_clip_reference.py full --output docs/open_clip_parity.json
    PYTHONPATH=src python scripts/open_clip_reference.py fixture --output tests/fixtures/open_clip
"""

import argparse
import gzip
import json
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

_OPERATORS = torch.library.Library("torchvision", "DEF")  # which torchvision looks for and a torch without CUDA lacks
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402
from open_clip.tokenizer import SimpleTokenizer, basic_clean, default_bpe  # noqa: E402
from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402

from anople_hf.backbones import load_backbone, load_processor_parts  # noqa: E402
from anople_hf.export.conversion import TOLERANCE, compare_towers, convert_open_clip, record_layers  # noqa: E402
from anople_hf.open_clip import _SHAPES, CONFIG_FILE, named_model  # noqa: E402
from anople_hf.open_clip_processing import clip_tokenizer  # noqa: E402

FULL_SIZE = ("ViT-B-16-plus-240", "ViT-B-32-quickgelu")
NAMES = [
    "bottle",
    "metal nut",
    "printed circuit board",
    "pipe_fryum",
    "macaroni1",
    "Zahnbürste",
    "M6 x 20",
    '3/8" bolt',
]
ALPHABETS = {
    "latin": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "accents": "äöüßéèêçñøåąęłśżčšžőű",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюяАБВГДЕЖ",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "han": "电路板裂纹螺钉瓶齿轮缺陷正常",
    "kana": "ねじボルトキズ",
    "hangul": "나사볼트결함정상",
    "digits": "0123456789",
    "signs": "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~°µ±²½×",
    "emoji": "😀🔩⚙️🧪📦",
}
# Settings that differ from the usual ones in everything the conversion has to carry over.
SMALL = {
    "quick": {
        "model_cfg": {
            "embed_dim": 12,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16,
                           "mlp_ratio": 3.0},
            "text_cfg": {"context_length": 40, "vocab_size": 514, "width": 16, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.25], "interpolation": "bilinear",
                           "resize_mode": "squash"},
    },
    "scaled": {
        "model_cfg": {
            "embed_dim": 20,
            "vision_cfg": {"image_size": 40, "patch_size": 10, "width": 24, "layers": 3, "head_width": 8,
                           "ls_init_value": 0.1, "norm_kwargs": {"eps": 1e-3}},
            "text_cfg": {"context_length": 48, "vocab_size": 514, "width": 24, "heads": 3, "layers": 3,
                         "ls_init_value": 0.1, "norm_kwargs": {"eps": 1e-4}},
        },
        "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
                           "interpolation": "bicubic", "resize_mode": "shortest"},
    },
}  # fmt: skip


def mixed_strings(count: int, seed: int = 0) -> list[str]:
    """Product names, words of many scripts, numbers, signs, odd spaces; some longer than the text tower reads."""
    draw = random.Random(seed)
    found: dict[str, None] = dict.fromkeys(NAMES)
    while len(found) < count:
        words = []
        for _ in range(draw.choice([1, 2, 3, 4, 6, 8] if len(found) % 50 else [60, 90])):
            kind = draw.choice(["latin", "latin", *ALPHABETS])
            words.append("".join(draw.choices(ALPHABETS[kind], k=draw.randint(1, 9))))
        text = draw.choice(["{}", "{}.", "abnormal {}", " {} ", "a photo of a {}'s"]).format(
            draw.choice([" ", " ", "  ", "\t", "\n", "-", ""]).join(words)
        )
        if basic_clean(text) == text.strip():  # what open_clip repairs first is another matter, see REPAIRED
            found[text] = None
    return list(found)[:count]


REPAIRED = ["“quoted”", "it’s", "ﬁne", "ｆｕｌｌ", "schÃ¶n", "nut &amp; bolt", "&lt;5mm"]
"""open_clip rewrites these, by ftfy and as HTML, before it looks for tokens; transformers takes them literally."""


def compare_tokens(count: int = 1000) -> dict[str, Any]:
    """How many strings get the same tokens from open_clip and from us, cut off at 77."""
    texts, tokenizer = mixed_strings(count), clip_tokenizer()
    ours, theirs = tokenizer(texts, truncation=True)["input_ids"], open_clip.tokenize(texts).tolist()
    equal = [
        theirs_[: len(ours_)] == ours_ and not any(theirs_[len(ours_) :])
        for ours_, theirs_ in zip(ours, theirs, strict=True)
    ]
    repaired = [
        text for text in REPAIRED
        if SimpleTokenizer().encode(text) != tokenizer(text, add_special_tokens=False)["input_ids"]
    ]  # fmt: skip
    return {"strings": len(texts), "equal": sum(equal), "cut off": sum(len(ids) == 77 for ids in ours),
            "different, since open_clip repairs them first": repaired}  # fmt: skip


def photos(count: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of many sizes with soft shapes, fine grain and hard edges."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        height, width = (int(side) for side in draw.integers(60, 900, 2))
        soft = Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize((width, height), 3)
        grain = draw.normal(0, 12, (height, width, 1))
        edges = 90 * ((np.arange(width) // 7 + np.arange(height)[:, None] // 5) % 2)[..., None]
        picture = np.asarray(soft, np.float32) * 0.6 + grain + edges
        found.append(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))
    return found


def compare_pixels(folder: Path, side: int, count: int = 40) -> dict[str, Any]:
    """Largest difference of prepared images in gray levels: squeezed as here, and cropped as open_clip does it.

    Of an odd margin torchvision leaves half a pixel more on one side or the other, transformers always on the right;
    such photos are counted and not compared.
    """
    squeezed, _ = load_processor_parts(str(folder))
    cropped = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    pictures = photos(count)
    margins = [int(side * max(photo.size) / min(photo.size)) - side for photo in pictures]
    same = [photo for photo, margin in zip(pictures, margins, strict=True) if round(margin / 2) == margin // 2]
    report: dict[str, Any] = {}
    for mode, processor, compared in (("squash", squeezed, pictures), ("shortest", cropped, same)):
        transform = open_clip.image_transform(side, is_train=False, resize_mode=mode)
        scale = 255 * torch.tensor(processor.image_std)[:, None, None]
        report[mode] = max(
            float(((transform(photo) - processor(photo, return_tensors="pt")["pixel_values"][0]) * scale).abs().max())
            for photo in compared
        )
    return {**report, "photos": count, "cropped one pixel aside": count - len(same)}


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Move every number away from its start, so that no bias is 0 and no norm is 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.1 if parameter.ndim < 2 else 0.02))
    return model.eval()


def full(output: Path) -> None:
    """Full-size models with random weights, against the folders that `anople convert` writes from them."""
    report: dict[str, Any] = {
        "command": "python scripts/open_clip_reference.py full",
        "versions": {m.__name__: m.__version__ for m in (torch, torchvision, open_clip, transformers)},
        "tolerance": TOLERANCE,
        "names whose sizes equal open_clip's": check_names(),
        "models": {},
        "tokens": compare_tokens(),
    }
    for number, name in enumerate(FULL_SIZE):
        started = time.perf_counter()
        model = randomize(open_clip.create_model(name), seed=number)
        with tempfile.TemporaryDirectory() as temporary:
            weights, folder = Path(temporary) / "weights.pt", Path(temporary) / "converted"
            torch.save({"epoch": 1, "name": name, "state_dict": model.state_dict()}, weights)
            convert_open_clip(f"open_clip:{name}:{weights}", folder, max_shard_size="300MB")
            found = compare_towers(load_backbone(str(folder)), model)
            side = model.visual.image_size[0]
            report["models"][name] = {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "weights files": len(list(folder.glob("*.safetensors"))),
                "largest absolute difference": max(difference for difference, _ in found.values()),
                "absolute difference and largest value": {
                    part: [float(f"{value:.3g}") for value in pair] for part, pair in found.items()
                },
                "prepared images, gray levels": compare_pixels(folder, side),
                "seconds": round(time.perf_counter() - started, 1),
            }
        print(name, report["models"][name])
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\s+([-\d.e]+),\s+([-\d.e]+)\s+\]", r"[\1, \2]", text)  # pairs in one line
    output.write_text(text + "\n", encoding="utf-8")


def check_names() -> int:
    """The number of names in the package's table, after holding each against open_clip's own configuration."""
    for name in _SHAPES:
        theirs = open_clip.get_model_config(name)
        ours = named_model(name)
        ours["vision_cfg"] = {key: value for key, value in ours["vision_cfg"].items() if value is not None}
        theirs = {"quick_gelu": False, **theirs}
        theirs["vision_cfg"] = {"head_width": 64, "mlp_ratio": 4.0, **theirs["vision_cfg"]}
        assert ours == theirs, name
    return len(_SHAPES)


@torch.no_grad()
def fixture(output: Path) -> None:
    """Small models with what open_clip makes of a few images and texts, and the tokens of 1,000 strings."""
    for number, (name, settings) in enumerate(SMALL.items()):
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        cfg, preprocess = settings["model_cfg"], settings["preprocess_cfg"]
        model = randomize(open_clip.model.CLIP(**cfg), seed=number)
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()},
            folder / "open_clip_model.safetensors",
        )
        (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n")
        byte_level_tokenizer(cfg["text_cfg"]["context_length"]).save_pretrained(folder)

        side, length = cfg["vision_cfg"]["image_size"], cfg["text_cfg"]["context_length"]
        photo = photos(1, seed=number)[0].resize((70, 45), 3)
        own, squash = (
            image_transform_v2(PreprocessCfg(size=side, **{**preprocess, **changes}), is_train=False)
            for changes in ({}, {"resize_mode": "squash"})
        )
        pixels = torch.randn(2, 3, side, side)
        ids = torch.randint(1, 512, (3, length))
        ids[:, 0] = 512
        for row, last in enumerate((4, length // 2, length - 1)):
            ids[row, last], ids[row, last + 1 :] = 513, 0
        image, vision_layers = record_layers(
            model.visual.transformer.resblocks, lambda m=model, p=pixels: m.encode_image(p)
        )
        text, text_layers = record_layers(model.transformer.resblocks, lambda m=model, i=ids: m.encode_text(i))
        save_file(
            {
                "photo": torch.from_numpy(np.array(photo)), "prepared": own(photo), "squashed": squash(photo),
                "pixels": pixels, "ids": ids, "image_embeddings": image, "text_embeddings": text,
                "vision_layers": torch.stack(vision_layers), "text_layers": torch.stack(text_layers),
            },
            folder / "expected.safetensors",
        )  # fmt: skip
    texts = mixed_strings(1000)
    rows = [
        [text, ids[: ids.index(49407) + 1]]
        for text, ids in zip(texts, open_clip.tokenize(texts).tolist(), strict=True)
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    (output / "tokens.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def byte_level_tokenizer(length: int) -> transformers.CLIPTokenizer:
    """CLIP's tokenizer without merges: 256 bytes, the same at a word's end, start and end of text."""
    letters = list(clip_tokenizer().get_vocab().items())
    known = [token for token, _ in sorted(letters, key=lambda pair: pair[1])[:512]]
    vocabulary = {token: i for i, token in enumerate([*known, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def vocabulary(output: Path) -> None:
    """The package's own copy of the merges, from open_clip's; the same bytes every time."""
    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]  # as open_clip cuts them
    with open(output, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(("\n".join(merges) + "\n").encode("utf-8"))


def main() -> None:
    """Write one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["full", "fixture", "vocabulary"])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    {"full": full, "fixture": fixture, "vocabulary": vocabulary}[args.what](args.output)


if __name__ == "__main__":
    main()
