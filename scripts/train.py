"""Train a detector under `accelerate launch`: the options are those of `anople train`.

Run it in one of these ways:

    accelerate launch scripts/train.py DATA --output runs/line1 --shots 4     # the processes and GPUs of your config
    python -m anople_hf.cli train DATA --output runs/line1                    # the same on one process
    torchrun --nproc-per-node 2 scripts/train.py DATA --output runs/line1     # several processes on CPUs
"""

import sys

from anople_hf.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
