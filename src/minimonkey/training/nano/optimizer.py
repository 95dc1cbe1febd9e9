"""Muon for the hidden matrices and AdamW for the rest, as one optimizer with one schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from minimonkey.errors import UsageError
from minimonkey.training.nano.config import OptimizerConfig

NOT_HIDDEN = ("embed", "lm_head", "characters_head", "places_head")
MUON_MEMORY, ADAMW_MEMORY = {"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}
"""What the optimizers keep of a parameter between two steps."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Keller Jordan's quintic iteration (https://kellerjordan.github.io/posts/muon)."""


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, for matrices: all matrices of one shape go through the iteration together.

    The update is that of `torch.optim.Muon` (defaults there), which takes one matrix at a time: for the 60 small matrices of nano
    on two cores that is half of the training time, batched it is a twentieth.
    """

    def __init__(self, groups: Iterable[dict], weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[parameter.shape].append(parameter)
            for shape, parameters in same_shape.items():
                updates = []
                for parameter in parameters:
                    buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(buffer, group["momentum"]))
                step_size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, orthogonal(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.to(parameter.dtype), alpha=step_size)


def orthogonal(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Roughly the nearest (semi-)orthogonal matrices: singular values come to lie between 0.7 and 1.2. [batch, rows, columns]"""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonWithAdamW:
    """The two optimizers behind the few methods a loop needs."""

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, steps: int) -> None:
        muon: dict[float, list[nn.Parameter]] = defaultdict(list)
        adamw: dict[float, list[nn.Parameter]] = defaultdict(list)
        self.names: dict[nn.Parameter, str] = {}
        names = []
        for name, parameter in named_parameters:
            names.append(name)
            scale = _scale(name, config.lr_multipliers)
            parameter.requires_grad_(scale > 0)
            if scale == 0:
                continue
            self.names[parameter] = name
            hidden = parameter.ndim == 2 and not any(part in name for part in NOT_HIDDEN) and config.muon_lr > 0
            (muon if hidden else adamw)[scale].append(parameter)
        if unused := [prefix for prefix in config.lr_multipliers if not any(name.startswith(prefix) for name in names)]:
            raise UsageError(f"optimizer.lr_multipliers: no parameter's name begins with {unused[0]!r}; e.g. {names[0]!r} is one")
        self.optimizers: list[torch.optim.Optimizer] = []
        if muon:
            groups = [{"params": parameters, "base_lr": config.muon_lr * scale} for scale, parameters in muon.items()]
            self.optimizers.append(Muon(groups, weight_decay=config.weight_decay))
        if adamw:
            groups = [{"params": parameters, "base_lr": config.adamw_lr * scale} for scale, parameters in adamw.items()]
            self.optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True))
        self.config, self.steps = config, steps

    def factor(self, step: int) -> float:
        """Warm-up, constant, linear decay: the learning rate's factor before `step` (counted from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        decay_steps = max(1.0, self.config.decay_fraction * self.steps)
        return min(warm, 1.0, max(0.0, (self.steps - step) / decay_steps))

    def step(self, step: int) -> None:
        """Update the weights with the learning rates of `step`, then clear the gradients. Raises UsageError, and changes nothing,
        if the norm of the gradients isn't finite."""
        norm = nn.utils.clip_grad_norm_(list(self.names), self.config.clip_norm)
        check_finite("norm of the gradients", float(norm), step)
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
                    found[f"{self.names[parameter]}|{key}"] = torch.as_tensor(value).detach().to("cpu", copy=True)
        return found

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors()` gave; parameters that it has nothing of begin anew.

        Raises:
            UsageError: of a parameter another optimizer has the memory than has it now.
        """
        for optimizer in self.optimizers:
            for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
                prefix = f"{self.names[parameter]}|"
                state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                memory = MUON_MEMORY if isinstance(optimizer, Muon) else ADAMW_MEMORY
                if state and state.keys() != memory:
                    before = "AdamW" if isinstance(optimizer, Muon) else "Muon"
                    raise UsageError(
                        f"optimizer.muon_lr={self.config.muon_lr}: the run began with {before} for {self.names[parameter]}; "
                        "resume with the former muon_lr, or give this run another `name` and the former run as its `start`"
                    )
                if state:
                    optimizer.state[parameter] = state


def check_finite(what: str, value: float, step: int) -> None:
    """Raise UsageError if a figure of a step (counted from 0) isn't finite: weights that come of it are lost for good."""
    if not math.isfinite(value):
        raise UsageError(
            f"step {step + 1}: the {what} is {value}, so nothing of this step is kept; lower optimizer.adamw_lr or "
            "optimizer.muon_lr, then the run goes on from its last checkpoint"
        )


def _scale(name: str, lr_multipliers: dict[str, float]) -> float:
    matching = [prefix for prefix in lr_multipliers if name.startswith(prefix)]
    return lr_multipliers[max(matching, key=len)] if matching else 1.0
