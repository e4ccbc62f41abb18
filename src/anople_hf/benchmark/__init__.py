"""The benchmark harness: plans of cells for the paper's tables, which are run once, resumed, distributed and rendered.

Implements Tables 1 to 5 and Figure 1b (sec. 4).
"""

from .cells import Cell, CellResult, measure
from .plans import TABLES, Plan, make_plan
from .rendering import render
from .runs import run_plan

__all__ = ["TABLES", "Cell", "CellResult", "Plan", "make_plan", "measure", "render", "run_plan"]
