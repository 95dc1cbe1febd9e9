"""Two processes learn what one learns at the same total batch, whether each has the whole model or they share it."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minimonkey.errors import UsageError
from minimonkey.training.run import run_tuning

SCRIPT = '''
import json, sys
from pathlib import Path
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from minimonkey.recipe_file import build
from minimonkey.training import tune
from minimonkey.training.config import TuningRecipe
from minimonkey.training.run import run_tuning
from minimonkey.training.state import trained_parameters


class SharingOnCpu(Accelerator):
    """accelerate 1.15 takes FSDP for GPUs alone, and says nothing: here it is told that it has some."""

    def __init__(self, *arguments, fsdp_plugin=None, **settings):
        super().__init__(*arguments, **settings)
        if fsdp_plugin is not None:
            for state in (PartialState, AcceleratorState):
                state._shared_state["distributed_type"] = DistributedType.FSDP
            AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin


def write_state(folder, module, optimizer, *, is_main):
    found = {isinstance(parameter, DTensor) for parameter in trained_parameters(module).values()}
    assert found == {tune.SHARDED}, found
    written(folder, module, optimizer, is_main=is_main)


Accelerator.end_training = lambda self: None  # which would part the processes before the next recipe
written, tune.write_state = tune.write_state, write_state
for raw in json.loads(Path("recipes.json").read_text()):
    tune.SHARDED = raw["sharding"] == "fsdp2"
    tune.Accelerator = SharingOnCpu if tune.SHARDED else Accelerator
    run_tuning(build(TuningRecipe, raw, "test"))
'''
PROCESSES = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
HELD_OUT = {"rows": "rows.jsonl", "images": "images", "every": 3, "limit": 5}
LORA = {"vision": {"train": False}, "projector": {}, "language": {"lora": {"rank": 2, "dropout": 0.0}}}


def two_processes(*recipes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("recipes.json").write_text(json.dumps([dataclasses.asdict(recipe) for recipe in recipes]))
    Path("script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), "script.py"]
    done = subprocess.run(words, env=os.environ | PROCESSES, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


def log(folder, key):
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def agrees(folder, with_folder):
    for key in ("loss", "gradient_norm", "held_out_loss"):
        assert log(folder, key) == pytest.approx(log(with_folder, key), abs=1e-5, rel=1e-5), (folder, key)
    ours, theirs = (load_file(next(Path(each).glob("tuned/*.safetensors"))) for each in (folder, with_folder))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], atol=2e-4), (folder, name)  # AdamW makes much of little


def test_data_parallel(tuning):
    """One row a process: when one has text alone, the other has pictures. What two leave, one goes on with."""
    settings = {"batch_rows": 1, "steps": 5, "evaluation": HELD_OUT, "reduction": "square"}
    two_processes(tuning(**settings, out="two"), tuning(**settings, out="cut", max_minutes=1e-9))
    run_tuning(tuning(**settings, out="one", accumulate=2))
    agrees("two", "one")
    assert [path.name for path in Path("cut").glob("checkpoint-*")] == ["checkpoint-00000001"]
    with pytest.raises(UsageError, match=r"a step had 2 batches \(processes x accumulate\), here 1 x 1; set accumulate=2$"):
        run_tuning(tuning(**settings, out="cut"))
    run_tuning(tuning(**settings, out="cut", accumulate=2))
    agrees("cut", "one")


@pytest.mark.slow
def test_sharing_the_model(tuning):
    """FSDP2, all parts and adapters, padded and packed, accumulated; what two leave, one goes on with."""
    settings = {"batch_rows": 1, "steps": 5, "evaluation": HELD_OUT}
    packed = {"packing": {"max_tokens": 200}, "accumulate": 2, "steps": 2, "parts": LORA, "gradient_checkpointing": True}
    shared = {"sharding": "fsdp2"}
    two_processes(
        tuning(**settings, **shared, out="two"),
        tuning(**settings, **shared, out="cut", max_minutes=1e-9),
        tuning(**packed, **shared, out="packed two"),
    )
    run_tuning(tuning(**settings, out="one", accumulate=2))
    run_tuning(tuning(**settings, out="cut", accumulate=2))
    run_tuning(tuning(**packed | {"accumulate": 4}, out="packed one"))
    agrees("two", "one")
    agrees("cut", "one")
    agrees("packed two", "packed one")


def test_sharing_needs_devices_that_accelerate_shares_on(tuning):
    with pytest.raises(UsageError, match=r"evaluation.metric='exact': a model that processes share can't answer; use loss"):
        tuning(sharding="fsdp2", evaluation=HELD_OUT | {"metric": "exact"})
    assert run_tuning(tuning(sharding="fsdp2", steps=1)).name == "tuned", "one process has nobody to share with"
