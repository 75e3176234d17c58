"""The moving average of a student."""

from __future__ import annotations

import copy
from typing import Any

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
        mine = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*student.parameters(), *student.buffers()]
        floating = [pair for pair in zip(mine, theirs, strict=True) if pair[0].is_floating_point()]
        torch._foreach_lerp_([m for m, _ in floating], [s.detach() for _, s in floating], 1 - decay)
        for m, s in zip(mine, theirs, strict=True):
            if not m.is_floating_point():
                m.copy_(s)
