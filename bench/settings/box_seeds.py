"""How boxes become seeds: the settings."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field

from bench.settings.base import Knobs

VERSION = 1  # raise it when the same settings would give other seeds


class BoxSeeds(Knobs):
    """From boxes to seeds."""

    # naive: every box is filled, the smaller in front. inner: the middle of a box alone. crf: the naive
    # labels after the dense CRF, within the boxes. agree: what naive and crf agree on; undecided elsewhere.
    rule: Literal["agree", "naive", "inner", "crf"] = "agree"
    inner: float = Field(0.2, gt=0, le=1)  # of the area of a box (Box_i, Khoreva et al., CVPR 2017)
    crf: Literal["irn", "psa", "toco", "deeplab"] = "irn"  # published parameters, see bench.ops.crf
    half_size: bool = False  # the CRF sees half the size

    @property
    def seed_id(self) -> str:
        """Eight hex digits of the settings."""
        what = json.dumps({"boxes": self.record(), "version": VERSION}, sort_keys=True)
        return hashlib.sha256(what.encode()).hexdigest()[:8]
