"""The web app: teach a product with a few good photos, check others, move the threshold, take the results along.

`interface.py` is what is seen, `desk.py` what the buttons do, `inspector.py` how photos are taught and judged,
`products.py` what one visitor taught, `saving.py` how it is saved, `detectors.py` the models to choose from,
`texts.py` the words. The review of a lot has its own: `review_tab.py`, `reviewing.py`, `review.py` (what was
answered), `judging.py` (in the background), `review_texts.py`. `sessions.py` keeps all for a page that is loaded
again.
"""

from .interface import build, launch

__all__ = ["build", "launch"]
