"""Push a trained detector to the Hub: the options are those of `anople push`.

python scripts/push_to_hub.py RUN owner/name --evaluation table.json --facts facts.yaml
"""

import sys

from anople_hf.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "push")
    main()
