"""How much of an image a network may see at once, by the memory that it may take."""

from __future__ import annotations

import torch

from bench.scoring.model import Model
from bench.scoring.tiles import GIB, PROCESS_BYTES, STORED_BYTES, pixels_at_once
from bench.settings.schema import COLOUR

MEMORY = 2.0  # GiB of the process, on the CPU


class Memory:
    """The bound of one run. It is asked once, not for each image: what torch keeps of a GPU's memory would
    count as taken the next time, and the weights stay the same.

    Args:
        given: GiB; None: `MEMORY`, of a GPU half of what is free.
    """

    def __init__(self, model: Model, given: float | None, largest_scale: float) -> None:
        self._classes, self._scale = len(model.classes), largest_scale
        self._held = 0
        self.said = f"{given or MEMORY:.3g} GiB"
        if model.device == "cpu":
            weights = sum(tensor.nbytes for tensor in model.net.state_dict().values())
            self._held = PROCESS_BYTES + 2 * weights
            self._bytes = (given or MEMORY) * GIB
        elif given is not None:
            self._bytes = given * GIB
        else:
            self._bytes = torch.cuda.mem_get_info(model.device)[0] / 2
            self.said = "half of the GPU's free memory"

    def pixels(self, size: tuple[int, int], arrays: int, channels: int = COLOUR) -> int:
        """Pixels of an image that the network may see at once. Reckoned, not measured: the same image gets
        the same windows every time.

        Args:
            size: Height and width of the image.
            arrays: Bytes of what is made of it.
            channels: Of the image.

        Raises ConfigError where it is too large.
        """
        height, width = size
        # Images lie in the memory of the CPU, which is no part of a GPU's bound.
        stored = max(STORED_BYTES, channels) * height * width
        held = self._held + stored + arrays if self._held else 0
        return pixels_at_once(self._bytes, held, self._classes, self._scale)
