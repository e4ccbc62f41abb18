"""The benchmark harness: the paper's tables as plans of cells, run once each, resumed, spread, gathered and rendered.

Where in the paper: sec. 4, Tables 1 to 5 and Figure 1b.
"""

from .cells import Cell, CellResult, measure
from .plans import TABLES, Plan, make_plan
from .rendering import render
from .runs import run_plan

__all__ = ["TABLES", "Cell", "CellResult", "Plan", "make_plan", "measure", "render", "run_plan"]
