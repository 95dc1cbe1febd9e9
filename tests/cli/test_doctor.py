"""`minimonkey doctor`: what it says of a sound, a damaged and a missing model."""

import hashlib
import importlib.metadata

import pytest

from minimonkey.cli import doctor


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that `doctor` takes for the package, with an embedded model of eight bytes."""
    nano = tmp_path / "nano"
    nano.mkdir()
    (nano / "model.safetensors").write_bytes(b"weights!")
    monkeypatch.setattr(doctor, "files", lambda package: tmp_path)
    return nano


def test_versions_extras_and_devices(run, package):
    result = run("doctor")
    rows = dict(line.split(maxsplit=1) for line in result.out.splitlines() if not line.startswith("extra"))
    assert result.code == 0
    assert rows["minimonkey"] == importlib.metadata.version("minimonkey")
    assert rows["torch"] == importlib.metadata.version("torch")
    assert rows["devices"].startswith("cpu")
    assert rows["nano"].startswith("0.0 MB, sha256 ")


def test_extras_of_the_metadata(monkeypatch):
    metadata = {"Provides-Extra": ["train", "serve"]}
    monkeypatch.setattr(doctor.importlib.metadata, "metadata", lambda _: type("M", (), {"get_all": staticmethod(metadata.get)}))
    wanted = ["pillow>=11", 'pillow; extra == "train"', 'no-such-package>=2; extra == "serve"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: wanted)
    assert list(doctor._extras()) == [
        ("extra train", "installed"),
        ("extra serve", "not installed (no-such-package): pip install 'minimonkey[serve]'"),
    ]


def test_the_recorded_checksum(run, package):
    (package / "checksum").write_text(f"{hashlib.sha256(b'weights!').hexdigest()}  model.safetensors\n")
    result = run("doctor")
    assert result.code == 0
    assert result.out.endswith(", as recorded\n")


def test_a_damaged_model(run, package):
    (package / "checksum").write_text(f"{hashlib.sha256(b'other').hexdigest()}  model.safetensors\n")
    result = run("doctor")
    assert result.code == 1
    assert result.out.endswith(f"is not the recorded {hashlib.sha256(b'other').hexdigest()[:16]}: install minimonkey again\n")


def test_a_missing_model(run, package):
    (package / "model.safetensors").unlink()
    result = run("doctor")
    assert result.code == 1
    assert "model.safetensors is missing" in result.out
