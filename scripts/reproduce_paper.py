"""The paper's tables on your data, one command a table; what is done is not done again, whoever interrupts it.

Where in the paper: Tables 1 to 5 and Figure 1b.

    python scripts/reproduce_paper.py table1 DATA/mvtec DATA/visa --output runs/table1 --backbone CONVERTED
    python scripts/reproduce_paper.py table2 DATA/mvtec --output runs/table2 --held-out bottle --held-out screw
    torchrun --nproc-per-node 4 scripts/reproduce_paper.py table4 DATA/mvtec --output runs/table4
    accelerate launch scripts/reproduce_paper.py table5 BMAD --output runs/table5

The paper's backbone: `anople convert timm/vit_base_patch16_plus_clip_240.laion400m_e31 --output CONVERTED`.
"""

import sys

from anople_hf.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "reproduce")
    main()
