"""`python -m anople_hf.cli`."""

from . import main

main()
