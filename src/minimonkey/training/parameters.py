"""Which parameters learn, how fast, and which of them decay. Knows the three parts of a network, no data and no loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from minimonkey.errors import MissingExtraError, UsageError
from minimonkey.training.config import PARTS, LoraConfig, OptimizerConfig, Part, PartConfig

PREFIXES: dict[str, Part] = {
    "vision_tower.": "vision",
    "multi_modal_projector.": "projector",
    "language_model.": "language",
    "lm_head.": "language",
}
"""What the names of a part's parameters begin with, behind `model.`."""
ATTENTION_AND_MLP = {
    "vision": r"model\.vision_tower\..*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)",
    "projector": r"model\.multi_modal_projector\..*linear_[12]",
    "language": r"model\.language_model\..*\.(q_proj|k_proj|v_proj|qkv_proj|o_proj|gate_proj|up_proj|gate_up_proj|down_proj)",
}
"""The linear layers of each part that get adapters: all of attention and MLP, as in the published scripts."""


def part_of(name: str) -> Part:
    """The part that a parameter belongs to, by its name in the network."""
    bare = name.removeprefix("model.").removeprefix("base_model.model.").removeprefix("model.")
    for prefix, part in PREFIXES.items():
        if bare.startswith(prefix):
            return part
    raise UsageError(f"parameter {name}: belongs to none of {', '.join(PARTS)}")


def freeze(network: nn.Module, parts: Mapping[str, PartConfig]) -> None:
    """Only what is trained without adapters keeps its gradients; adapters are added later."""
    for name, parameter in network.named_parameters():
        config = parts[part_of(name)]
        parameter.requires_grad_(config.train and config.lora is None)


def add_adapters(network: nn.Module, parts: Mapping[str, PartConfig]) -> Any:
    """The network with peft's LoRA layers in the parts that ask for them, wrapped by peft; as it is if none does.

    Raises:
        MissingExtraError: peft isn't installed.
        UsageError: a part has no layer for adapters.
    """
    wanted = {name: config.lora for name, config in parts.items() if config.train and config.lora is not None}
    if not wanted:
        return network
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "train", "LoRA") from error
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    first, *others = wanted.values()
    ranks, alphas = {}, {}
    for part, lora in wanted.items():
        ranks[f".*{ATTENTION_AND_MLP[part]}"] = lora.rank
        alphas[f".*{ATTENTION_AND_MLP[part]}"] = _alpha(lora)
    if any(lora.dropout != first.dropout for lora in others):
        raise UsageError("lora: peft has one dropout for all parts; give them the same")
    config = peft.LoraConfig(
        r=first.rank,
        lora_alpha=_alpha(first),
        lora_dropout=first.dropout,
        target_modules="|".join(f"({ATTENTION_AND_MLP[part]})" for part in wanted),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        bias="none",
    )
    try:
        with warnings.catch_warnings():  # peft 0.21 asks for a name that transformers 5.23 has renamed
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            wrapped = peft.get_peft_model(network, config)
    except ValueError as error:
        raise UsageError(f"lora: {' and '.join(wanted)} of this model have no layer for adapters") from error
    for name, parameter in network.named_parameters():
        if name in learning:
            parameter.requires_grad_(True)
    for part, lora in wanted.items():
        if lora.share_query_key_value:
            _share(network, part)
    return wrapped


def _alpha(lora: LoraConfig) -> int:
    return 2 * lora.rank if lora.alpha is None else lora.alpha


def _share(network: nn.Module, part: str) -> None:
    """One A matrix for query, key and value of each attention layer."""
    for name, module in network.named_modules():
        if part_of_module(name) == part and all(hasattr(module, each) for each in ("q_proj", "k_proj", "v_proj")):
            for each in (module.k_proj, module.v_proj):
                each.lora_A.default.weight = module.q_proj.lora_A.default.weight


def part_of_module(name: str) -> Part | None:
    return part_of(f"{name}.") if any(name.removeprefix("model.").startswith(prefix) for prefix in PREFIXES) else None


def groups(network: nn.Module, parts: Mapping[str, PartConfig], config: OptimizerConfig) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: one for each rate, with and without decay.

    Biases and LayerNorm weights never decay; other one-dimensional weights (RMSNorm, layer scales) do only with `decay_norms`.
    """
    layer_norms = {id(each.weight) for each in network.modules() if isinstance(each, nn.LayerNorm) and each.weight is not None}
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = parts[part_of(name)].rate
        spared = name.endswith("bias") or id(parameter) in layer_norms or (parameter.ndim < 2 and not config.decay_norms)
        found.setdefault((config.rate if rate is None else rate, not spared), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": config.weight_decay if decays else 0.0}
        for (rate, decays), parameters in found.items()
    ]


def make_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW of the kind that the recipe asks for. Raises MissingExtraError without bitsandbytes, where 8 bits are asked for."""
    settings: dict[str, Any] = {"lr": config.rate, "betas": config.betas, "eps": config.eps}
    if config.name == "adamw":
        return torch.optim.AdamW(groups, **settings)
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "quantize", f"optimizer {config.name}") from error
    return (optim.AdamW8bit if config.name == "adamw-8bit" else optim.PagedAdamW8bit)(groups, **settings)


def rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """What a step's rate is multiplied by; the first of a warm-up is 0, as in transformers' schedules.

    Args:
        step: counted from 0.
        steps: of the whole run.
        config: its schedule.
    """
    warmup = math.ceil(config.warmup_fraction * steps)
    if step < warmup:
        return step / warmup
    left = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "constant":
        return 1.0
    return max(0.0, 0.5 * (1 + math.cos(math.pi * left)) if config.schedule == "cosine" else 1 - left)
