"""`minimonkey train RECIPE`: from a recipe to a trained folder."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_processor
from minimonkey.errors import MiniMonkeyError, MissingExtraError, UsageError
from minimonkey.evaluation.metrics import cer
from minimonkey.memory import HINTS, explain_out_of_memory
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.synthetic.material.words import ALPHABET
from minimonkey.training.loop import checkpoints
from minimonkey.training.nano.batches import Batches
from minimonkey.training.nano.character_tokenizer import character_tokenizer
from minimonkey.training.nano.config import TrainConfig
from minimonkey.training.nano.losses import Losses, normalise
from minimonkey.training.nano.model_edits import apply_edits, change_rope
from minimonkey.training.recipe import load_recipe
from minimonkey.training.run import alone_in

RUNS = Path("runs")


def train(recipe: Path, overrides: list[str] | tuple[str, ...] = ()) -> Path:
    """Run one recipe to its end, continuing where an earlier call stopped; returns the last checkpoint's folder."""
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training") from error
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise UsageError(
            f"{ranks} processes were started, but this training runs in one: start it without torchrun or accelerate launch"
        )
    config = load_recipe(recipe, overrides)
    folder = RUNS / config.name
    with alone_in(folder):
        check_material(config, folder)
        (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
        return _train(config, folder)


def check_material(config: TrainConfig, folder: Path) -> None:
    """Raise UsageError for a run that began with other material, by the recipe in its folder: a seed would draw other samples."""
    recipe = folder / "recipe.json"
    if not checkpoints(folder) or not recipe.exists():
        return
    try:
        begun_with = json.loads(recipe.read_text(encoding="utf-8")).get("material", config.material)
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{recipe} is no recipe as runs write it; remove it if the run began with this recipe") from error
    if begun_with != config.material:
        raise UsageError(
            f"material={config.material!r}: {folder} began with {begun_with!r}, and a seed draws other samples now; "
            f"resume with material={begun_with}, or give the run another `name`"
        )


@explain_out_of_memory("training", HINTS["train"])
def _train(config: TrainConfig, folder: Path) -> Path:
    """The run itself, in a folder that is there and ours."""
    from minimonkey.training.nano.trainer import Trainer, load_weights

    torch.manual_seed(config.seed)
    if config.publish is not None:
        try:  # now, not after hours of training
            Path(config.publish).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"publish={config.publish!r}: can't make that folder: {error.strerror}") from error
    start = None
    if config.start is not None:
        found = checkpoints(Path(config.start))
        start = found[-1] if found else Path(config.start)
    try:
        model, processor = new_model(config) if start is None else open_folder(start, config.rope)
    except (StrictDataclassError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, MiniMonkeyError):
            raise
        raise UsageError(
            f"no model can be made of the recipe's `model` or `rope` ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if config.pyramid:
        processor.image_processor.spec = processor.image_processor.spec_for({"pyramid": config.pyramid})
        model.config.pyramid = dataclasses.asdict(processor.image_processor.spec)
    model.set_attn_implementation({"vision_config": config.vision_attention, "text_config": "sdpa", "": "sdpa"})
    losses = Losses(model, processor, config)
    if start is not None:
        load_weights(losses, start)
        if config.match_tile_rows > 0 and not (start / "places_head.st").exists():
            raise UsageError(f"match_tile_rows needs a run with a places head to start from; {start} has no places_head.st")
    apply_edits(losses, config)
    patch_px = model.config.vision_config.patch_size[0]
    batches = Batches(config, processor, patch_px)
    held_out = Batches(dataclasses.replace(config, tiles_per_batch=64, prefix_noise=0.0), processor, patch_px, split="held_out")
    for each in (batches, held_out) if config.evaluate_every else (batches,):
        draw_each(each)
    trainer = Trainer(losses, batches, config, folder, evaluate=lambda: evaluate(losses, held_out))
    trainer.train()
    if config.publish is not None and trainer.step == config.steps:
        publish(losses.model, processor, Path(config.publish))
    return checkpoints(folder)[-1]


def draw_each(batches: Batches) -> None:
    """One sample of each source: missing fonts and wrong settings show before the first step, here rather than in a worker."""
    for source in batches.config.mixture:
        config = dataclasses.replace(batches.config, mixture=(source,), tiles_per_batch=1)
        dataclasses.replace(batches, config=config)[0]


def publish(model: MiniMonkeyForConditionalGeneration, processor: MiniMonkeyProcessor, folder: Path) -> None:
    """Write a model folder for users: bfloat16 weights, processor, and `checksum` as `sha256sum model.safetensors` prints it."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    processor.save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "checksum").write_text(f"{digest}  model.safetensors\n")


def new_model(config: TrainConfig) -> tuple[MiniMonkeyForConditionalGeneration, MiniMonkeyProcessor]:
    """A model with random weights and its processor, in the shape that the recipe's `model` describes."""
    shape: dict[str, Any] = dict(config.model)
    tokenizer = character_tokenizer(ALPHABET)
    image_processor = MiniMonkeyImageProcessor(pyramid=shape["pyramid"])
    vision, text = dict(shape.pop("vision_config")), dict(shape.pop("text_config"))
    text |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text |= {"bos_token_id": None}
    side = image_processor.spec.tile_px // vision["patch_size"]
    shape |= {"image_seq_length": (side // 2) ** 2, "image_token_id": tokenizer.context_image_token_id}
    model_config = MiniMonkeyConfig(vision_config=vision, text_config=text, **shape)
    for part, given in ((model_config, shape), (model_config.vision_config, vision), (model_config.text_config, text)):
        if unknown := sorted(given.keys() - vars(type(part)()).keys() - {"model_type"}):
            raise UsageError(f"the recipe's `model` has unknown keys for {part.model_type}: {', '.join(unknown)}")
    if image_processor.spec.tile_px != model_config.vision_config.image_size[0]:
        raise UsageError("the recipe's `model`: tiles of another size in `pyramid` (tile_px) than in `vision_config` (image_size)")
    model = MiniMonkeyForConditionalGeneration(model_config)
    return model, MiniMonkeyProcessor(image_processor, tokenizer, image_seq_length=model_config.image_seq_length)


def open_folder(folder: Path, rope: dict[str, Any] | None = None) -> tuple[MiniMonkeyForConditionalGeneration, MiniMonkeyProcessor]:
    """The model (weights still random) and processor of a checkpoint or model folder, its `rope_parameters` changed by `rope`."""
    found = find_folder(folder)
    model_config = found.config("native")
    if rope:
        change_rope(model_config.text_config, rope)
    return MiniMonkeyForConditionalGeneration(model_config), load_processor(found, model_config)


@torch.no_grad()
def evaluate(losses: Losses, held_out: Batches, batches: int = 4) -> dict[str, float]:
    """Figures on unseen words and typefaces: those of the loss, and for stage "read" the character error rate of free reading."""
    from minimonkey.training.nano.trainer import means

    losses.eval()
    device = next(losses.parameters()).device
    seen: list[dict[str, float]] = []
    predictions: list[str] = []
    references: list[str] = []
    for number in range(batches):
        batch = {key: value.to(device) for key, value in held_out[number].items()}
        _, figures = losses(batch)
        seen.append({f"held_out_{key}": float(value) for key, value in figures.items()})
        if losses.config.stage == "read":
            texts = read(losses, batch)
            predictions += texts[0]
            references += texts[1]
    cers = {"held_out_cer": cer(predictions, references)} if references else {}
    return means(seen) | cers


def read(losses: Losses, batch: dict[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Greedy answers to the first question of each row of a batch, and what they should have been."""
    asked = batch["labels"] != -100
    prompt_lengths = asked.int().argmax(1)
    longest = int(prompt_lengths.max())
    input_ids = torch.full((len(asked), longest), losses.processor.tokenizer.pad_token_id, device=asked.device)
    mask = torch.zeros_like(input_ids)
    for row, length in enumerate(prompt_lengths.tolist()):
        input_ids[row, longest - length :] = batch["input_ids"][row, :length]
        mask[row, longest - length :] = 1
    end = losses.processor.encode_answer("")[0]
    wanted = [labels[: labels.index(end)] for labels in (batch["labels"][row][asked[row]].tolist() for row in range(len(asked)))]
    answers = losses.model.generate(
        input_ids=input_ids,
        attention_mask=mask,
        pixel_values=normalise(batch["tiles"], losses.processor),
        max_new_tokens=max(map(len, wanted)) + 9,  # what ends an answer, and some more
        do_sample=False,
    )
    decode = losses.processor.tokenizer.decode
    return (
        [decode(row[longest:], skip_special_tokens=True) for row in answers],
        [decode(row, skip_special_tokens=True) for row in wanted],
    )
