"""What the vision encoder gets and what is kept of it, whoever asks: graphs that are recorded, threads, memory."""

import gc
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel

from minimonkey.compression.spans import Selection
from minimonkey.compression.spec import CompressionSpec
from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from minimonkey.models.minimonkey.vision_features import cls_attention

TILE_PX = 28


def tiles(*seeds: int) -> torch.Tensor:
    """One random tile for each seed; equal seeds give equal tiles."""
    return torch.stack([torch.randn(3, TILE_PX, TILE_PX, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


# -- alone, without a head -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [MiniMonkeyModel, AutoModel])
def test_it_loads_from_a_folder_with_a_head_and_from_its_own(tmp_path, tiny_model, auto_classes, loader):
    model = tiny_model("qwen2")
    model.save_pretrained(tmp_path / "whole")
    alone = loader.from_pretrained(tmp_path / "whole")
    assert type(alone) is MiniMonkeyModel
    alone.save_pretrained(tmp_path / "alone")
    again = loader.from_pretrained(pretrained_model_name_or_path=tmp_path / "alone")
    expected = model.model.state_dict()
    for loaded in (alone.state_dict(), again.state_dict()):
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert load_file(tmp_path / "alone" / "model.safetensors").keys() == whole.keys() - {"language_model.lm_head.weight"}
    assert json.loads((tmp_path / "alone" / "config.json").read_text())["model_type"] == "minimonkey"


def test_a_picture_given_by_place_is_not_taken_for_something_else(tiny_model):
    with pytest.raises(TypeError, match="positional"):
        tiny_model("qwen2").model(torch.tensor([[7]]), tiles(1))


class Encoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model.get_image_features(pixel_values).pooler_output


@pytest.fixture
def encoder(tiny_model):
    return Encoder(tiny_model("qwen2").model)


# -- recorded graphs: what the sample's tiles have in common mustn't stay in them ----------------------------------------------


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of transformers' own code: sizes that become constants
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # the tracer looks at every property
@torch.no_grad()
def test_a_traced_encoder_encodes_every_tile(encoder):
    traced = torch.jit.trace(encoder, (torch.zeros(3, 3, TILE_PX, TILE_PX),), strict=False)
    torch.testing.assert_close(traced(tiles(1, 2, 3)), encoder(tiles(1, 2, 3)))


@torch.no_grad()
def test_an_exported_encoder_takes_any_number_of_tiles(encoder):
    number = torch.export.Dim("tiles", min=2, max=64)
    exported = torch.export.export(encoder, (tiles(1, 1, 2),), dynamic_shapes=({0: number},), strict=False).module()
    for pixel_values in (tiles(1, 2, 3, 3), tiles(*range(40))):  # more than go through it at once otherwise
        torch.testing.assert_close(exported(pixel_values), encoder(pixel_values))


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # transformers' own collector of outputs
@torch.no_grad()
def test_a_prompt_with_a_picture_compiles_in_one_graph(tiny_model):
    model = tiny_model("qwen2")
    inputs = {"input_ids": torch.tensor([[model.config.image_token_id] * 8 + [7, 8, 9]]), "pixel_values": tiles(1, 1)}
    expected = model(**inputs).logits  # first, as transformers installs its hooks in a first call, which can't be compiled
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, expected)


@torch.no_grad()
def test_tiles_without_values_have_features_without_values(encoder):
    features = encoder.to("meta")(tiles(1, 2).to("meta"))
    assert features.is_meta
    assert features.shape == (2, 4, 32)


# -- what is kept of the encoder -----------------------------------------------------------------------------------------------


def encoder_bytes() -> int:
    """Bytes of all hidden states of the encoder, [tiles, 17, 32], that are alive anywhere."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    return sum(tensor.nbytes for tensor in tensors if tensor.shape[1:] == (17, 32))


A_TILE = 17 * 32 * 4
"""Bytes of the encoder's output for a tile."""


@pytest.mark.parametrize("how", ["generate", "forward", "compressed", "text with a thumbnail alone"])
def test_while_the_language_model_reads_nothing_of_the_encoder_is_kept_but_features(tiny_model, how):
    model, seen, before = tiny_model("qwen2"), [], encoder_bytes()
    inputs = picture(model, 0)
    if how == "text with a thumbnail alone":
        inputs["level_tiles"] = torch.tensor([[0, 0, 4]])
    spec = None if how in ("generate", "forward") else CompressionSpec("visionzip", 0.5)
    model.model.language_model.layers[0].register_forward_pre_hook(lambda *_: seen.append(encoder_bytes()))
    with torch.no_grad():
        if how == "forward":
            model(**inputs, compression=spec)
        else:
            model.generate(**inputs, compression=spec, max_new_tokens=2, do_sample=False)
    assert seen
    assert set(seen) == {before}


@torch.no_grad()
def test_only_what_is_asked_for_is_kept(tiny_model, monkeypatch):
    model = tiny_model("qwen2").model
    monkeypatch.setattr(model, "tile_batch", 2)

    def kept(**asked) -> dict[str, int]:
        output = model.get_image_features(tiles(1, 2, 3, 1, 4), **asked)
        return {name: sum(t.nbytes for t in (value if isinstance(value, tuple) else [value])) for name, value in output.items()}

    features = {"pooler_output": 5 * 4 * 32 * 4}
    assert kept(keep_last_hidden_state=False) == features
    assert kept() == features | {"last_hidden_state": 5 * A_TILE}
    assert kept(cls_attention=True, keep_last_hidden_state=False) == features | {"attentions": 5 * 16 * 4}
    states = features | {"hidden_states": 3 * 5 * A_TILE}
    assert kept(output_hidden_states=True, keep_last_hidden_state=False) == states
    model.config.vision_config.output_hidden_states = True
    assert kept(keep_last_hidden_state=False) == states
    assert kept(output_hidden_states=False, keep_last_hidden_state=False) == features


@torch.no_grad()
def test_batches_of_tiles_are_let_go_once_they_are_copied(tiny_model, monkeypatch):
    """While a batch of two is encoded there is nothing else than the output for all seven tiles."""
    model, seen, before = tiny_model("qwen2").model, [], encoder_bytes()
    monkeypatch.setattr(model, "tile_batch", 2)
    model.vision_tower.register_forward_pre_hook(lambda *_: seen.append((encoder_bytes() - before) // A_TILE))
    output = model.get_image_features(tiles(1, 2, 1, 3, 4, 5, 2))
    assert seen == [0, 7, 7]
    monkeypatch.setattr(model, "encode_duplicates", True)
    torch.testing.assert_close(output.last_hidden_state, model.get_image_features(tiles(1, 2, 1, 3, 4, 5, 2)).last_hidden_state)
    assert seen == [0, 7, 7, 7, 14, 14, 14]


# -- threads that share a model ------------------------------------------------------------------------------------------------


def picture(model, seed: int) -> dict:
    """A prompt with a picture of three detail tiles and a thumbnail."""
    ids = torch.tensor([[model.config.image_token_id] * 16 + [7, 8, 9]])
    return {"input_ids": ids, "pixel_values": tiles(*range(seed, seed + 4)), "level_tiles": torch.tensor([[3, 0, 1]])}


@pytest.mark.parametrize("selector", ["visionzip", "scm"])
def test_threads_have_their_own_answers(tiny_model, selector):
    """Three threads, 20 rounds: each gets what it gets alone. The class token is watched in an encoder that all share."""
    model, spec = tiny_model("qwen2"), CompressionSpec(selector, 0.25)
    prompts = [picture(model, 10 * thread) for thread in range(3)]

    def answer(thread: int) -> tuple[list[int], list[int]]:
        selections: list[Selection] = []
        ids = model.generate(**prompts[thread], compression=spec, selections=selections, max_new_tokens=3, do_sample=False)
        return ids[0].tolist(), selections[0].selected.tolist()

    alone = list(map(answer, range(3)))
    assert len({tuple(selected) for _, selected in alone}) == 3
    with ThreadPoolExecutor(3) as pool:
        together = pool.map(lambda thread: [answer(thread) for _ in range(20)], range(3))
        for thread, answers in enumerate(together):
            assert answers == [alone[thread]] * 20


def test_threads_see_where_their_own_class_token_looks(tiny_model):
    model = tiny_model("qwen2").model
    pictures = [tiles(*range(10 * thread, 10 * thread + 2 + thread)) for thread in range(3)]

    def attention(thread: int) -> torch.Tensor:
        with torch.no_grad():
            return model.get_image_features(pictures[thread], cls_attention=True).attentions[0]

    alone = list(map(attention, range(3)))
    assert [len(seen) for seen in alone] == [2, 3, 4]
    with ThreadPoolExecutor(3) as pool:
        for seen, thread in zip(pool.map(attention, [0, 1, 2] * 20), [0, 1, 2] * 20, strict=True):
            assert torch.equal(seen, alone[thread])


@pytest.mark.parametrize("used", [-1, -2, 1])
@torch.no_grad()
def test_where_the_class_token_looks_changes_nothing_else(tiny_model, used):
    model = tiny_model("qwen2").model
    settings = {"vision_feature_layer": used}
    plain = model.get_image_features(tiles(1, 2), output_hidden_states=True, **settings)
    watched = model.get_image_features(tiles(1, 2), cls_attention=True, **settings)
    assert torch.equal(watched.pooler_output, plain.pooler_output)
    assert torch.equal(watched.last_hidden_state, plain.last_hidden_state)
    assert watched.hidden_states is None
    assert torch.equal(watched.attentions[0], cls_attention(model.vision_tower.encoder.layer[-1], plain.hidden_states[1]))
    for asked in (True, [0], 1):
        both = model.get_image_features(tiles(1, 2), cls_attention=True, output_hidden_states=asked, **settings)
        assert torch.equal(both.attentions[0], watched.attentions[0])
        assert asked is not True or all(map(torch.equal, both.hidden_states, plain.hidden_states))


@torch.no_grad()
def test_the_class_token_of_an_encoder_of_one_layer_is_watched_too(tiny_config):
    config = tiny_config("qwen2")
    config.vision_config.num_hidden_layers = 1
    model = MiniMonkeyModel(config).eval()
    seen = model.get_image_features(tiles(1), cls_attention=True).attentions[0]
    tower = model.vision_tower
    assert torch.equal(seen, cls_attention(tower.encoder.layer[0], tower.embeddings(tiles(1))))
