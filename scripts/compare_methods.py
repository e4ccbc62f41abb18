"""AnoPLe against SPADE, PatchCore and WinCLIP on your data: same backbone, shots and metrics, in one table.

Where in the paper: the protocol of Table 1.

    python scripts/compare_methods.py DATA --output runs/compare --shots 1 --shots 2 --shots 4 --parts
"""

import sys

from anople_hf.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "compare")
    main()
