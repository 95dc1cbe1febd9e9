"""Optimiser steps as the published training scripts make them: losses, gradient norms, rates and the weights at the end."""

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

import minimonkey
from minimonkey.checkpoints.convert import convert
from minimonkey.checkpoints.folder import find_folder
from minimonkey.data.collation import collate
from minimonkey.data.published import published_example
from minimonkey.training.config import LoraConfig, OptimizerConfig, PartConfig
from minimonkey.training.objective import AnswerLoss
from minimonkey.training.parameters import add_adapters, freeze, groups, make_optimizer, rate_factor
from tests.data.published import IMAGES, ROWS, settings_of

CHECKPOINTS = {"internvl2-qwen2-56": "internvl", "minimonkey-internlm2-56": "minimonkey"}
SCENARIOS = ("llm_only", "full", "mlp_only", "full_accumulate2", "lora_llm", "lora_llm_vit")


def part_configs(settings, fused):
    """The published switches as parts; `fused`: query, key and value of the language model are one matrix there."""

    def part(frozen, rank):
        lora = LoraConfig(rank, dropout=0.0, share_query_key_value=fused or frozen == "freeze_backbone") if rank else None
        return PartConfig(train=lora is not None or not settings[frozen], lora=lora)

    return {
        "vision": part("freeze_backbone", settings.get("backbone_lora")),
        "projector": part("freeze_mlp", None),
        "language": part("freeze_llm", settings.get("llm_lora")),
    }


class Run:
    """A recorded scenario, made anew."""

    def __init__(self, golden, checkpoint, scenario):
        recorded = json.loads((golden / "training" / checkpoint / "steps.json").read_text("utf-8"))
        self.checkpoint, self.expected = golden / checkpoint, recorded["scenarios"][scenario]
        self.tensors = load_file(golden / "training" / checkpoint / "steps.safetensors")
        self.scenario, self.hyper = scenario, self.expected["hyper"]
        setting = next(settings_of(checkpoint, CHECKPOINTS[checkpoint]))
        made = setting.processor
        self.batches = [
            collate([published_example(ROWS[row], made, images=IMAGES, pyramid=setting.spec) for row in rows], made)
            for rows in recorded["batches"]
        ]
        for batch in self.batches:  # their mask
            batch["attention_mask"] &= batch["input_ids"] != 0
        self.network = minimonkey.load(self.checkpoint, device="cpu", dtype="float32").model
        parts = part_configs(self.expected["settings"], "internlm2" in checkpoint)
        freeze(self.network, parts)
        self.objective = AnswerLoss(add_adapters(self.network, parts))
        self._set_initial()
        self.config = OptimizerConfig(
            rate=self.hyper["learning_rate"],
            weight_decay=self.hyper["weight_decay"],
            warmup_fraction=self.hyper["warmup_ratio"],
            decay_norms=True,
        )
        self.optimizer = make_optimizer(groups(self.network, parts, self.config), self.config)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def _set_initial(self):
        own = dict(self.network.named_parameters(remove_duplicate=False))
        for name, tensor in self.tensors.items():
            scenario, when, *key = name.split("/")
            if (scenario, when) == (self.scenario, "initial"):
                for native in self.native_names(key[0].removesuffix(".lora_A.default.weight")):
                    own[f"{native}.lora_A.default.weight"].data.copy_(tensor)

    def native_names(self, key):
        """Our names of a published linear layer."""
        published = key.replace("base_model.model.", "") + ".weight"
        found = (rule.native_names(published) for rule in find_folder(self.checkpoint).published.rules)
        names = (name.replace("language_model.model.", "language_model.") for name in next(filter(None, found)))
        return [f"model.{name.removesuffix('.weight')}" for name in names]

    def step(self, number):
        expected = self.expected["steps"][number]
        losses = []
        for batch in expected["batches"]:
            loss = self.objective(self.batches[batch])
            (loss / len(expected["batches"])).backward()
            losses.append(loss.item())
        learning = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(learning, self.hyper["max_grad_norm"]).item()
        factor = rate_factor(number, self.hyper["total_steps"], self.config)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses, norm, factor * self.config.rate

    def losses(self):
        with torch.no_grad():
            return [self.objective(batch).item() for batch in self.batches]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_steps(golden, checkpoint, scenario, tmp_path):
    run = Run(golden, checkpoint, scenario)
    for number, expected in enumerate(run.expected["steps"]):
        losses, norm, rate = run.step(number)
        assert rate == pytest.approx(expected["lr"], rel=1e-6)
        theirs = expected["loss"] if isinstance(expected["loss"], list) else [expected["loss"]]
        assert losses == pytest.approx(theirs, abs=5e-4), number
        assert norm == pytest.approx(expected["grad_norm"], rel=1e-3), number
    assert run.losses() == pytest.approx(run.expected["loss_after"], abs=5e-4)
    if "loss_after_merge" in run.expected:
        run.objective.model.merge_adapter()
        assert run.losses() == pytest.approx(run.expected["loss_after_merge"], abs=5e-4)
        return
    convert(run.checkpoint, tmp_path / "tuned", to="native")
    run.network.save_pretrained(tmp_path / "tuned")
    convert(tmp_path / "tuned", tmp_path / "published", to="published")
    final = load_file(tmp_path / "published" / "model.safetensors")
    for name, figures in run.expected["final"].items():
        tensor = final[name].float()
        assert tensor.mean().item() == pytest.approx(figures["mean"], abs=2e-5), name
        assert tensor.std(correction=0).item() == pytest.approx(figures["std"], abs=2e-5), name


def test_what_decays(golden):
    run = Run(golden, "internvl2-qwen2-56", "full")
    spared = [group for group in run.optimizer.param_groups if not group["weight_decay"]]
    assert sum(len(group["params"]) for group in spared) > 10
    ours = OptimizerConfig(weight_decay=0.05)
    kept = groups(run.network, part_configs(run.expected["settings"], fused=False), ours)
    norm = run.network.model.language_model.norm.weight
    assert any(norm is each for group in kept if not group["weight_decay"] for each in group["params"])
    assert not any(norm is each for group in spared for each in group["params"])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [0, 0.5, 1, 0.75, 0.25]), ("linear", [0, 0.5, 1, 2 / 3, 1 / 3]), ("constant", [0, 0.5, 1, 1, 1])],
)
def test_rates(schedule, expected):
    config = OptimizerConfig(warmup_fraction=0.3, schedule=schedule)
    assert [rate_factor(step, 5, config) for step in range(5)] == pytest.approx(expected)
    falling = [rate_factor(step, 100, OptimizerConfig()) for step in range(3, 100)]
    assert all(later < earlier for earlier, later in pairwise(falling))
