"""FrugalSeg: one harness, identical splits, honest tables. Run it as `python -m bench`."""

import importlib.util
from pathlib import Path

__version__ = "0.1.0"

# `datasets` is also the name of a popular package. Python takes whichever comes first on the path, and a
# mix-up would show up far from its cause, so look once, here, without importing anything.
_spec = importlib.util.find_spec("datasets")
_ours = Path(__file__).resolve().parent.parent / "datasets"
if _spec is None or _spec.origin is None or Path(_spec.origin).resolve().parent != _ours:
    raise ImportError(
        f"`import datasets` finds {_spec.origin if _spec else 'nothing'}, not {_ours} beside this package. "
        "Run from the checkout's root, or in an environment without the other `datasets` package."
    )
