"""Draws M-hat before any training, for each choice of `decoder_tokens`, beside the memory's map.

MaskCLIP's map (sec. 3.2 starts there) takes the last block's values; `last` takes the tokens that attention has mixed.

    python scripts/untrained_maps.py DATA maps.jpg --backbone tiny
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from seeds import start, untrained

from anople_hf.data import load_inspection_data
from anople_hf.images import read_image
from anople_hf.pictures.overlays import draw_contour, heat_map_overlay, resize_to
from anople_hf.pictures.palette import save
from anople_hf.pictures.sheets import TRUTH

TOKENS = ("last", "value")


@torch.inference_mode()
def main() -> None:
    """Take one defective photo of each product, and draw its maps, each on its own scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--number", type=int, default=0, help="which defective photo of each product")
    args = parser.parse_args()
    start(2)

    splits = load_inspection_data(args.data)
    products = list(dict.fromkeys(splits["train"]["category"]))
    models = {tokens: untrained(args.backbone, products, decoder_tokens=tokens) for tokens in TOKENS}
    columns = ["photo", "ground truth", *(f"M-hat, {tokens}" for tokens in TOKENS), "memory"]
    figure = Figure(figsize=(1.9 * len(columns), 2.0 * len(products)), facecolor="white", layout="constrained")
    axes = figure.subplots(len(products), len(columns), squeeze=False)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10)
    for line, product in zip(axes, products, strict=True):
        good = [row["image"] for row in splits["train"] if row["category"] == product][: args.shots]
        row = [r for r in splits["test"] if r["category"] == product and r["label"]][args.number]
        photo = read_image(row["image"])
        pixels = np.asarray(photo)
        truth = resize_to(np.asarray(row["mask"].convert("L")) > 0, pixels.shape[:2]) > 0
        maps = []
        for model, processor in models.values():
            output = model(processor(images=photo)["pixel_values"], branch="prompt")
            maps.append(output.anomaly_maps[0].numpy())
        model.memorize(processor(images=good)["pixel_values"], product)
        output = model(processor(images=photo)["pixel_values"], category=product, branch="memory")
        maps.append(output.anomaly_maps[0].numpy())
        line[0].imshow(pixels)
        line[0].set_ylabel(product.replace("_", " "), fontsize=9)
        line[1].imshow(draw_contour(np.where(truth[..., None], pixels, pixels // 2), truth, TRUTH))
        for axis, found in zip(line[2:], maps, strict=True):
            axis.imshow(heat_map_overlay(pixels, found, scale=(float(found.min()), float(found.max())), alpha=0.75))
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    print(f"saved: {save(figure, args.picture, dpi=80)}")


if __name__ == "__main__":
    main()
