"""Tune the embedded model with transformers' Trainer and peft: our rows, our collator, their loop.

python examples/finetune_with_trainer.py [FOLDER] [STEPS]
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

import minimonkey
from minimonkey.data import collate, encode, read_conversations
from minimonkey.data.rendered import write_documents

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 10
write_documents(folder, 4, kind="label")

vlm = minimonkey.load(device="cpu")
rows = read_conversations(folder / "rows.jsonl", images=folder / "images")
examples = [encode(row, vlm.processor, pyramid={"detail": (1, 2), "adaptive": None}) for row in rows]
layers = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
model = get_peft_model(vlm.model, LoraConfig(r=8, lora_alpha=16, target_modules=layers))

settings = TrainingArguments(
    output_dir=str(folder / "run"), max_steps=steps, per_device_train_batch_size=4, learning_rate=3e-4, logging_steps=1,
    remove_unused_columns=False, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(model, settings, train_dataset=examples, data_collator=partial(collate, processor=vlm.processor))
trainer.train()
model.save_pretrained(folder / "adapter")
losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; adapters in {folder / 'adapter'}")
