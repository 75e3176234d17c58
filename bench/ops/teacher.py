"""The moving average of a student."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """An exponential moving average of `student`, always in eval mode, never with a gradient.

    Parameters and floating buffers (the running statistics of batch norm) are averaged, integer buffers
    copied: the statistics then belong to the averaged weights, and no pass of the teacher changes anything.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.module: Any = copy.deepcopy(student).requires_grad_(False).eval()
        self._pairs: list[tuple[nn.Module, nn.Module]] = []  # see _beside

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """image B 3 H W -> logits B C H W."""
        return self.module(image)

    @torch.no_grad()
    def represent(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image B 3 H W -> logits B C h w and hidden B D h w."""
        return self.module.represent(image)

    @torch.no_grad()
    def project(self, hidden: Tensor) -> Tensor:
        """Hidden ... D -> representation ... D."""
        return self.module.project(hidden)

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float, updates: int | None) -> None:
        """Move towards the student by 1 - min(1 - 1 / (updates + 1), decay).

        `updates` is the number of updates before this one: the first copies the student, and the average is a
        plain mean until the ramp reaches `decay` (U2PL, train_semi.py:530-548; UniMatch V2 has the same
        ramp). None: no ramp.
        """
        if updates is not None:
            decay = min(1 - 1 / (updates + 1), decay)
        pairs = self._beside(student)
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        whole = [pair for pair in pairs if not pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floating], [theirs for _, theirs in floating], 1 - decay)
        if whole:
            torch._foreach_copy_([mine for mine, _ in whole], [theirs for _, theirs in whole])

    def _beside(self, student: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Each parameter and buffer of the teacher, beside that of the student; a shared one once.

        The modules are walked through in the first step alone: parameters() and buffers() would take longer
        than the average itself. Their tensors are looked up anew, since moving a module replaces its buffers.
        """
        if not self._pairs or self._pairs[0][1] is not student:
            self._pairs = list(zip(self.module.modules(), student.modules(), strict=True))
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for mine, theirs in self._pairs:
            for own, other in ((mine._parameters, theirs._parameters), (mine._buffers, theirs._buffers)):
                for name, tensor in own.items():
                    if tensor is not None:
                        found[id(tensor)] = tensor, cast(Tensor, other[name])
        return list(found.values())
