"""Features on disk: the same as computed, and others as soon as picture, cut or weights are."""

import dataclasses

import pytest
import torch
from PIL import Image

from minimonkey.data.conversation import Medium
from minimonkey.errors import UsageError
from minimonkey.pyramid import PyramidSpec
from minimonkey.training.feature_cache import FeatureCache, encoded, weights_digest


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    return Medium("image", str(tmp_path / "a.png"))


def test_there_and_back(tmp_path, picture):
    cache = FeatureCache(tmp_path / "features", "w")
    keys = [cache.key(picture, PyramidSpec()), cache.key(Medium("image", b"pixels"), PyramidSpec())]
    assert cache.load(keys) is None
    features = torch.randn(5, 4, 8)
    cache.store(keys, [2, 3], features)
    assert torch.equal(cache.load(keys), features)
    assert torch.equal(cache.load(keys[1:]), features[2:])
    (tmp_path / "features" / f"{keys[0]}.safetensors").write_bytes(b"half")
    assert cache.load(keys) is None


def test_what_a_name_depends_on(tmp_path, picture):
    cache = FeatureCache(tmp_path / "features", "w")
    key = cache.key(picture, PyramidSpec())
    assert cache.key(picture, dataclasses.replace(PyramidSpec(), detail=(1, 2))) != key
    assert FeatureCache(tmp_path / "features", "other").key(picture, PyramidSpec()) != key
    with open(picture.source, "rb") as file:
        assert cache.key(Medium("image", file.read()), PyramidSpec()) == key
    Image.new("RGB", (40, 30), "blue").save(picture.source)
    assert cache.key(picture, PyramidSpec()) != key


def test_weights(tiny_model):
    model = tiny_model()
    before = weights_digest(model.model.vision_tower)
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).add_(1)
    assert weights_digest(model.model.vision_tower) != before


def test_features_go_through_the_projector(tiny_model):
    model = tiny_model().eval()
    tiles = torch.rand(3, 3, 28, 28)
    with torch.no_grad():
        expected = model.model.get_image_features(tiles, return_dict=True).pooler_output
        torch.testing.assert_close(model.model.multi_modal_projector(encoded(model, tiles)), expected)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="leave cache_features out"):
        FeatureCache(tmp_path / "file" / "features", "w")
