"""Weight files that are read a tensor at a time, and written a shard at a time."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from minimonkey.checkpoints.tensors import LazyTensor, opened, write_shards
from minimonkey.errors import CheckpointError
from minimonkey.models.strict_loading import INDEX


def test_tensors_are_read_when_asked_for(tmp_path):
    values = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0, dtype=torch.int64)}
    save_file(values, tmp_path / "one.safetensors")
    save_file({"c": torch.ones(1)}, tmp_path / "two.safetensors")
    with opened([tmp_path / "one.safetensors", tmp_path / "two.safetensors"]) as tensors:
        assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (0,), "c": (1,)}
        assert torch.equal(tensors["a"][...], values["a"]) and tensors["b"][...].dtype == torch.int64


def test_a_name_in_two_files(tmp_path):
    for name in ("one", "two"):
        save_file({"a": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with (
        pytest.raises(CheckpointError, match=r"two\.safetensors: a is in another weight file, too"),
        opened([tmp_path / "one.safetensors", tmp_path / "two.safetensors"]),
    ):
        pass


def test_shards(tmp_path):
    values = {name: torch.full((4,), float(index)) for index, name in enumerate("abcde")}
    read: list[str] = []

    def reader(name):
        return lambda: (read.append(name), values[name])[1]

    tensors = {name: LazyTensor((4,), reader(name)) for name in values}
    write_shards(tensors, tmp_path, shard_bytes=40)  # two tensors of 16 bytes a shard
    assert read == list("abcde"), "each is read once"
    index = json.loads((tmp_path / INDEX).read_text())
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert index == {
        "metadata": {"total_size": 80},
        "weight_map": dict(zip("abcde", [s for s in shards for _ in "12"], strict=False)),
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == [*shards, INDEX]
    for shard in shards:
        for name, tensor in load_file(tmp_path / shard).items():
            assert torch.equal(tensor, values[name]) and index["weight_map"][name] == shard


def test_one_shard_needs_no_index(tmp_path):
    write_shards({"a": LazyTensor((1,), lambda: torch.ones(1))}, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
