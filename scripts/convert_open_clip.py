"""Convert an open_clip checkpoint to a transformers CLIP folder: the options are those of `anople convert`.

Where in the paper: sec. 4.1, the backbone ViT-B/16+ 240.

    python scripts/convert_open_clip.py timm/vit_base_patch16_plus_clip_240.laion400m_e31 --output clip-b16plus-240
    python scripts/convert_open_clip.py weights.pt --model ViT-B-16-plus-240 --output clip-b16plus-240
"""

import sys

from anople_hf.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "convert")
    main()
