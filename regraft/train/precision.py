"""The precision that a training step computes in. Weights, their averages and the optimiser's moments are fp32 in any case."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPrecision:
    """`half`: matrix products and convolutions in bf16, except the layers `exact`, which stay in fp32."""

    half: bool
    exact: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        if not self.half:
            return "fp32"
        return f"bf16, {len(self.exact)} layers in fp32" if self.exact else "bf16"

    def computing(self, device: str) -> AbstractContextManager[object]:
        """Inside, a forward pass computes so."""
        return torch.autocast(device.partition(":")[0], torch.bfloat16) if self.half else nullcontext()


FP32 = StepPrecision(half=False)
