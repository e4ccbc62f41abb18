r"""Write the tiny backbone as it was: at random, and its first version out of this repository's history.

python scripts/earlier_backbones.py --output runs/backbones
for b in runs/backbones/random runs/backbones/first embedded:tiny-clip; do
python scripts/compare_branches.py DATA --seeds 0 1 2 --backbone $b \
            --settings '{"memory_layers": [0], "memory_shifts": 4, "peak_share": 0.02}'
done
"""

import argparse
import shutil
import subprocess
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

ASSETS = Path("src/anople_hf/assets/tiny_clip")
FIRST = "0884293"
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the folders `random` and `first`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--commit", default=FIRST, help="the first version's commit")
    args = parser.parse_args()
    random, first = args.output / "random", args.output / "first"
    shutil.copytree(ROOT / ASSETS, random)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig.from_pretrained(random)).save_pretrained(random)
    first.mkdir()
    for file in (ROOT / ASSETS).iterdir():
        place = f"{args.commit}:{ASSETS}/{file.name}"
        content = subprocess.run(["git", "show", place], cwd=ROOT, capture_output=True, check=True).stdout
        (first / file.name).write_bytes(content)
    print(f"written: {random}, {first}")


if __name__ == "__main__":
    main()
