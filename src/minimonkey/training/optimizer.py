"""Muon for the hidden matrices and AdamW for the rest, as one optimizer with one schedule.

Muon: https://kellerjordan.github.io/posts/muon (torch's own implementation)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from minimonkey.training.config import OptimizerConfig

NOT_HIDDEN = ("embed", "lm_head", "characters_head")


class MuonWithAdamW:
    """The two optimizers behind the few methods a loop needs."""

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, steps: int) -> None:
        muon, adamw = {}, {}
        self.names: dict[nn.Parameter, str] = {}
        for name, parameter in named_parameters:
            scale = _scale(name, config.scales)
            parameter.requires_grad_(scale > 0)
            if scale == 0:
                continue
            self.names[parameter] = name
            hidden = parameter.ndim == 2 and not any(part in name for part in NOT_HIDDEN) and config.muon_lr > 0
            (muon if hidden else adamw).setdefault(scale, []).append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = []
        if muon:
            groups = [{"params": parameters, "base_lr": config.muon_lr * scale} for scale, parameters in muon.items()]
            self.optimizers.append(torch.optim.Muon(groups, weight_decay=config.weight_decay))
        if adamw:
            groups = [{"params": parameters, "base_lr": config.adamw_lr * scale} for scale, parameters in adamw.items()]
            self.optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0))
        self.config, self.steps = config, steps

    def factor(self, step: int) -> float:
        """Warm-up, constant, linear decay: the learning rate's factor before `step` (counted from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        decay_steps = max(1.0, self.config.decay_fraction * self.steps)
        return min(warm, 1.0, max(0.0, (self.steps - step) / decay_steps))

    def step(self, step: int) -> None:
        """Update the weights with the learning rates of `step`, then clear the gradients."""
        nn.utils.clip_grad_norm_(list(self.names), self.config.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * self.factor(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The optimizers' memory, by parameter name (no pickle: it goes into a safetensors file)."""
        found = {}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    found[f"{self.names[parameter]}|{key}"] = torch.as_tensor(value).detach().clone()
        return found

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors()` gave."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    prefix = f"{self.names[parameter]}|"
                    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                    if state:
                        optimizer.state[parameter] = state


def _scale(name: str, scales: dict[str, float]) -> float:
    matching = [prefix for prefix in scales if name.startswith(prefix)]
    return scales[max(matching, key=len)] if matching else 1.0
