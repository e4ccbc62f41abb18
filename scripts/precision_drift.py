"""How far scores move in half precision, int8 and under torch.compile, and what that does to the ranking.

python scripts/precision_drift.py RUN DATA [--images 50]
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.data import load_inspection_data
from anople_hf.data.few_shot import read_shots


def quantized(model: AnoPLeModel) -> AnoPLeModel:
    """CLIP's linear layers in dynamic int8; prompts, decoder and memory stay as they are."""
    model.clip = torch.ao.quantization.quantize_dynamic(model.clip, {torch.nn.Linear}, dtype=torch.qint8)
    return model


def compiled(model: AnoPLeModel) -> AnoPLeModel:
    """The vision tower through inductor; after a first call, in which transformers sets hooks that are no graph."""
    model(torch.zeros(1, 3, model.config.image_size, model.config.image_size))
    model.clip.vision_model.compile(fullgraph=True)
    return model


VARIANTS = {
    "float32": lambda model: model,
    "float16": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "int8": quantized,
    "torch.compile": compiled,
}


def taught_again(model: AnoPLeModel, shots: dict[str, torch.Tensor]) -> AnoPLeModel:
    """The same photos, remembered as this variant sees them."""
    for category, pixels in shots.items():
        reading = model.memory.product(category).reading
        model.memory.remove(category)
        model.memorize(pixels.to(model.dtype), category, reading=reading)
    return model


@torch.inference_mode()
def judge(model: AnoPLeModel, batches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Scores, peaks of the maps, and milliseconds an image after a first batch to warm up."""
    model(batches[0].to(model.dtype))
    started = time.perf_counter()
    outputs = [model(batch.to(model.dtype)) for batch in batches]
    spent = 1000 * (time.perf_counter() - started) / sum(map(len, batches))
    scores = torch.cat([output.scores.float() for output in outputs])
    return scores, torch.cat([output.anomaly_maps.float().amax(dim=(1, 2)) for output in outputs]), spent


def main() -> None:
    """Print one line a variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=50, help="of the test split, evenly spread")
    parser.add_argument("--batch-size", type=int, default=10)
    options = parser.parse_args()
    model, processor = AnoPLeModel.from_pretrained(options.run), AnoPLeProcessor.from_pretrained(options.run)
    splits = load_inspection_data(options.data)
    listed = read_shots(options.run / "shots.json")
    chosen = {c: [row["image"] for row in splits["train"] if row["path"] in set(paths)] for c, paths in listed.items()}
    shots = {category: processor(images=photos)["pixel_values"] for category, photos in chosen.items()}
    test = splits["test"]
    test = test.select(range(0, len(test), max(1, len(test) // options.images)))
    pixels = processor(images=list(test["image"]))["pixel_values"]
    labels = list(test["label"])
    batches = list(pixels.split(options.batch_size))
    batches = [batch for batch in batches if len(batch) == options.batch_size]
    labels = labels[: len(batches) * options.batch_size]
    reference = None
    print(f"{len(labels)} images, {torch.get_num_threads()} threads, batch {options.batch_size}")
    print(f"{'':24}{'largest drift':>15}{'of the range':>14}{'map peak':>10}{'image AUROC':>13}{'ms/image':>10}")
    exact = ("float32", "torch.compile")
    for name, again in [
        (name, again) for name in VARIANTS for again in (False, True) if not (again and name in exact)
    ]:
        variant = VARIANTS[name](copy.deepcopy(model))
        scores, peaks, spent = judge(taught_again(variant, shots) if again else variant, batches)
        if reference is None:
            reference = scores, peaks
        drift = (scores - reference[0]).abs().max().item()
        share = drift / (reference[0].max() - reference[0].min()).item()
        peak = (peaks - reference[1]).abs().max().item()
        ranking = 100 * roc_auc_score(labels, scores)
        title = name + (", taught again" if again else "")
        print(f"{title:24}{drift:15.6f}{share:14.2%}{peak:10.6f}{ranking:13.2f}{spent:10.1f}")


if __name__ == "__main__":
    main()
