"""The benchmarks run from end to end, on a model with the real tiles and hardly any width; what they find is written down."""

import json
import math
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from minimonkey.evaluation.speed import noise_page
from minimonkey.inference import openvino as engine
from minimonkey.pyramid import Size

ROOT = Path(__file__).parents[2]
SHARED = {"internvl2_1b", "report", "reader", "page", "plot"}
NARROW = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def one_thread():
    """Benchmarks choose the number of threads; tests after these keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def module(monkeypatch):
    """Import a file of benchmarks/ as Python does that runs one."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == ROOT / "benchmarks":
            del sys.modules[name]


@pytest.fixture
def narrow(module, monkeypatch):
    """The benchmarks' model with other widths."""
    shapes = module("internvl2_1b")
    real = shapes.settings

    def settings(vision_layers: int = 1, text_layers: int = 1) -> dict:
        fields = real(vision_layers, text_layers)
        fields["text_config"] |= NARROW | {"num_key_value_heads": 1, "vocab_size": 400}
        fields["vision_config"] |= NARROW
        return fields

    monkeypatch.setattr(shapes, "settings", settings)
    return shapes


@pytest.fixture
def programs(monkeypatch):
    """How often each program that OpenVINO compiled ran, in the order of compiling."""
    counts: list[int] = []
    compiled = engine.compiled

    def counting(*args):
        run, number = compiled(*args), len(counts)
        counts.append(0)

        def counted(*tensors):
            counts[number] += 1
            return run(*tensors)

        return counted

    monkeypatch.setattr(engine, "compiled", counting)
    return counts


@pytest.fixture
def run(module, narrow, monkeypatch, tmp_path):
    """Run a benchmark with one layer, one round and one thread: its exit code and what it kept."""

    def call(name: str, *words: str, rounds: tuple[str, ...] = ("--rounds", "1")) -> tuple[int, dict]:
        figures = tmp_path / "figures.json"
        small = ["--layers", "1", "--threads", "1", "--figures", str(figures), *rounds]
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *small, *words])
        return module(name).main(), json.loads(figures.read_text()) if figures.exists() else {}

    return call


def test_the_shape_is_internvl2_1b(module):
    """938 million parameters. Qwen2-0.5B has 494,032,768 of them, with a vocabulary of 151,936."""
    shapes = module("internvl2_1b")
    with torch.device("meta"):
        model = shapes.MiniMonkeyForConditionalGeneration(shapes.MiniMonkeyConfig(**shapes.settings()))
    parts = {"vision_tower": 0, "language_model": 0, "lm_head": 0, "multi_modal_projector": 0}
    for name, parameter in model.named_parameters():
        parts[next(part for part in parts if part in name)] += parameter.numel()
    assert parts == {
        "vision_tower": 304_012_288,
        "language_model": 494_032_768 - (151_936 - 151_655) * 896,
        "lm_head": 151_655 * 896,
        "multi_modal_projector": 8192 + 4097 * 896 + 897 * 896,
    }


def test_the_rival_has_the_same_tensors_and_says_the_same(narrow):
    ours = narrow.random_model(torch.float32, vision_layers=1, text_layers=1)
    rival = narrow.stock(ours)
    assert type(rival).__module__.startswith("transformers.")
    theirs = dict(rival.named_parameters())
    assert all(theirs[name].data_ptr() == tensor.data_ptr() for name, tensor in ours.named_parameters())
    inputs = narrow.processor()(
        images=noise_page(Size(100, 100)), text="<image>?", pyramid=narrow.pyramid_of(3), return_tensors="pt"
    )
    with torch.no_grad():
        expected = rival(**{name: tensor for name, tensor in inputs.items() if name != "level_tiles"}).logits
        assert torch.allclose(ours(**inputs).logits, expected, atol=1e-5)
    assert expected.std() > 0.3


@pytest.mark.parametrize("tiles", [1, 3, 5, 13, 20, 40])
def test_every_picture_has_so_many_tiles(module, tiles):
    shapes = module("internvl2_1b")
    assert {shapes.pyramid_of(tiles).plan(Size(*size)).tile_count for size in ((1754, 1240), (448, 448), (50, 900))} == {tiles}


def test_questions_have_thirty_tokens(module):
    shapes = module("internvl2_1b")
    tokenizer = shapes.tokenizer()
    assert {len(tokenizer(question).input_ids) for question in shapes.QUESTIONS} == {30}
    assert len(set(shapes.QUESTIONS)) == 32


def test_questions(run, module, monkeypatch):
    monkeypatch.setattr(module("questions"), "NEW_TOKENS", 3)
    monkeypatch.setattr(module("questions"), "LONG", {"max_new_tokens": 3, "min_new_tokens": 3})
    monkeypatch.setattr(module("questions"), "CACHED_BAR", 1e9)
    code, kept = run("questions", "--tiles", "3")
    rows = kept["questions"]["rows"]
    assert code == 1
    assert kept["questions"]["where"].endswith("; bfloat16, 1 layer, 3 tiles, 1 round, ours in torch")
    assert [row["holds"] for row in rows][2] is False
    assert [row["bar"] for row in rows] == ["<= 0.02", ">= 6", ">= 1e+09"]
    assert all(0 < float(row["figure"]) < 1000 for row in rows)


@pytest.mark.parametrize(
    ("layers", "tiles", "named"), [("24", "3", "--tiles"), ("1", "13", "--layers"), ("1", "3", "--layers and")]
)
def test_the_page_gets_figures_of_the_real_size_alone(module, run, monkeypatch, capsys, tmp_path, layers, tiles, named):
    """Refused before there is a model; the same goes into another file."""
    report = module("report")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(module("questions"), "random_vlm", None)
    with pytest.raises(SystemExit) as left:
        run("questions", "--layers", layers, "--tiles", tiles)
    assert left.value.code == 2
    assert f"figures.json is for the real size: leave out {named}" in capsys.readouterr().err
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        run("questions", "--layers", "24", "--tiles", "13")
    monkeypatch.setattr(report, "FIGURES", tmp_path / "page.json")
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        run("questions", "--layers", layers, "--tiles", tiles)


def test_encoder(run, module, monkeypatch, capsys):
    encoder = module("encoder")
    monkeypatch.setattr(encoder, "PLAIN", 32)
    monkeypatch.setattr(encoder, "BARS", {"bfloat16": (0.0, 0.1), "float32": (0.0, 1e-4)})
    monkeypatch.setattr(encoder, "in_openvino", lambda *_: None)
    code, kept = run("encoder", "--tiles", "2")
    assert code == 0
    assert "; bfloat16 and float32, 1 layer, 2 tiles, 1 round, ours in torch" in kept["encoder"]["where"]
    rows = kept["encoder"]["rows"]
    assert [row["what"].split(", ")[1] for row in rows] == ["bfloat16"] * 7 + ["float32"] * 7
    assert [row["bar"] for row in rows[7:]] == [">= 0", "<= 0.0001", *["none"] * 5]
    shares = {row["what"]: float(row["figure"]) for row in rows}
    whole, part = "vision encoder, float32, against transformers' own", "its attention alone, float32, of "
    assert shares[f"{part}ours"] == pytest.approx(shares[whole] * shares[f"{part}transformers' own"], rel=0.01)
    assert capsys.readouterr().out.count("its linear layers' rate, float32") == 1


def test_an_encoder_that_errs_misses_its_bar(run, module, monkeypatch):
    encoder = module("encoder")
    monkeypatch.setattr(encoder, "PLAIN", 32)
    monkeypatch.setattr(encoder, "BARS", {"float32": (0.0, 1e-4)})
    monkeypatch.setattr(encoder, "in_openvino", lambda *_: None)

    class Errs(encoder.TorchBackend):
        def encode(self, tiles):
            output = super().encode(tiles)
            output.pooler_output *= 1.001
            return output

    monkeypatch.setattr(encoder, "TorchBackend", Errs)
    code, kept = run("encoder", "--tiles", "1", "--dtype", "float32")
    assert code == 1
    assert [row["figure"] for row in kept["encoder"]["rows"]][1] == "0.001"


def test_an_encoder_in_openvino(run, module, monkeypatch, programs):
    """Ours computes in OpenVINO and errs little; the rival is compiled for itself, and is the tower of transformers' own class."""
    encoder = module("encoder")
    monkeypatch.setattr(encoder, "PLAIN", 32)
    monkeypatch.setattr(encoder, "OPENVINO_BAR", 0.0)
    monkeypatch.setattr(encoder, "BARS", {"bfloat16": (0.0, 0.1), "float32": (0.0, 1e-4)})
    code, kept = run("encoder", "--tiles", "1", "--engine", "openvino")
    assert (code, kept["encoder"]["where"].endswith("1 round, ours in openvino")) == (0, True)
    whats = [row["what"] for row in kept["encoder"]["rows"]]
    assert (whats[2], whats[10]) == tuple(f"vision encoder, {dtype}, against OpenVINO" for dtype in ("bfloat16", "float32"))
    assert programs == [3, 0, 2] * 2, "our encoder: its error, a round to warm up, a round; nothing is read; the rival: two rounds"


def test_the_rival_in_openvino_computes_the_tower(narrow, module):
    tower = narrow.stock(narrow.random_model(torch.float32, vision_layers=1, text_layers=1)).model.vision_tower
    tiles = torch.randn(2, 3, 448, 448, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tower(pixel_values=tiles).last_hidden_state
    (said,) = module("encoder").in_openvino(tower, tiles, "float32")()
    assert torch.allclose(said, expected, atol=1e-4)
    assert expected.std() > 0.3


def test_questions_and_growth_in_openvino(run, module, monkeypatch, programs):
    """Both programs of the model run: the encoder, and what reads the prompt."""
    monkeypatch.setattr(module("questions"), "LONG", {"max_new_tokens": 2, "min_new_tokens": 2})
    small = ("--dtype", "float32", "--engine", "openvino")
    _, kept = run("questions", "--tiles", "1", *small)
    assert kept["questions"]["where"].endswith("float32, 1 layer, 1 tile, 1 round, ours in openvino")
    _, kept = run("growth", "--only", "tiles", "--most", "1", *small, rounds=())
    assert kept["growth"]["where"].endswith("float32, 1 layer, ours in openvino")
    assert len(programs) == 4 and all(programs)


def test_generation_passes_the_engine_on(run, module, monkeypatch):
    """The rest is as in questions, and takes long."""

    def made(*_, **how):
        raise RuntimeError(how["engine"])

    monkeypatch.setattr(module("generation"), "random_vlm", made)
    with pytest.raises(RuntimeError, match="openvino"):
        run("generation", "--engine", "openvino")


def test_generation(run, module, monkeypatch, capsys):
    """`check` holds that both see the same tiles and ids."""
    generation = module("generation")
    monkeypatch.setattr(generation, "NEW_TOKENS", 3)
    code, kept = run("generation")
    assert capsys.readouterr().out.count("picture to first token, 13 tiles") == 1
    rows = kept["generation"]["rows"]
    assert code == int(not all(row["holds"] for row in rows))
    assert [row["bar"] for row in rows] == [">= 1.5", ">= 0.95", ">= 1.5"]


def test_compression(run, module, monkeypatch):
    monkeypatch.setattr(module("compression"), "BARS", {(4, 2, 1): 1e9, (4, 0, 1): 0.0})
    monkeypatch.setattr(module("compression"), "PUBLISHED_BAR", 0.0)
    code, kept = run("compression", "--layers", "3")
    assert (code, [row["holds"] for row in kept["compression"]["rows"]]) == (1, [True, True, True, False, True, True])
    assert [row["bar"] == "none" for row in kept["compression"]["rows"]] == [False, False, True] * 2


def test_compression_knows_no_engine(module, run, monkeypatch, capsys):
    monkeypatch.setattr(module("compression"), "random_model", None)
    with pytest.raises(SystemExit) as left:
        run("compression", "--engine", "openvino")
    assert left.value.code == 2
    assert "leave --engine out" in capsys.readouterr().err


def test_growth_goes_on_where_it_was_stopped(run, module, monkeypatch, capsys):
    monkeypatch.setattr(module("growth"), "commit", lambda: "earlier")
    code, kept = run("growth", "--only", "tiles", "--most", "1", rounds=())
    assert (code, list(kept["growth"]["tiles"])) == (0, ["1"])
    first = kept["growth"]["tiles"]["1"]
    assert 0 < first["encoder"] < first["first_token"]
    monkeypatch.setattr(module("growth"), "commit", lambda: "later")
    code, kept = run("growth", "--only", "tiles", "--only", "batch", "--most", "5", rounds=())
    assert (code, list(kept["growth"]["tiles"]), list(kept["growth"]["batch"])) == (0, ["1", "5"], ["1", "2", "4"])
    assert kept["growth"]["tiles"]["1"] == first
    assert [point["commit"] for point in kept["growth"]["tiles"].values()] == ["earlier", "later"]
    assert run("growth", "--dtype", "float32", rounds=())[0] == 2
    assert "--again drops them" in capsys.readouterr().err
    code, kept = run("growth", "--dtype", "float32", "--again", "--only", "tiles", "--most", "1", rounds=())
    assert (code, list(kept["growth"]["tiles"]), kept["growth"]["batch"]) == (0, ["1"], {})
    assert kept["growth"]["tiles"]["1"] != first


def test_growth_with_questions(run, module, monkeypatch):
    monkeypatch.setattr(module("growth"), "ASKED_TILES", 3)
    _, kept = run("growth", "--only", "questions", "--most", "2", rounds=())
    one, two = kept["growth"]["questions"].values()
    assert two["fresh"] == 2 * one["fresh"]
    assert one["one_by_one"] < two["one_by_one"]


def test_growth_waits_for_the_accelerator(run, module, monkeypatch):
    """On a clock that only waiting moves, the encoder and opening a picture take one wait each: the one at their end."""
    growth, now = module("growth"), [0.0]
    monkeypatch.setattr(growth, "ASKED_TILES", 1)
    monkeypatch.setattr(growth, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(growth, "settle", lambda: now.__setitem__(0, now[0] + 1000))
    _, kept = run("growth", "--only", "tiles", "--only", "questions", "--most", "1", rounds=())
    assert kept["growth"]["tiles"]["1"]["encoder"] == 1000
    assert 1000 < kept["growth"]["questions"]["1"]["one_by_one"] < 2000


@pytest.mark.parametrize(
    ("value", "limit", "at_most", "holds"),
    [
        (0.02, 0.02, True, True),
        (0.021, 0.02, True, False),
        (1.5, 1.5, False, True),
        (1.4, 1.5, False, False),
        (math.nan, 1, True, False),
        (0.3, None, False, True),
    ],
)
def test_a_bar(module, capsys, value, limit, at_most, holds):
    report = module("report")
    assert report.conclude("x", "here", [report.Bar("it", value, limit, at_most)], None) == int(not holds)
    printed = capsys.readouterr().out
    assert ("holds" in printed, "MISSED" in printed) == (holds and limit is not None, not holds)


def test_bars_are_kept_as_soon_as_they_are_found(module, tmp_path):
    """What is stopped at its second figure leaves the first, and the commit at which it began."""
    report, figures = module("report"), tmp_path / "figures.json"

    def found():
        yield report.Bar("13 tiles", 2.0, 1.5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report.conclude("generation", "here", found(), figures)
    kept = json.loads(figures.read_text())["generation"]
    assert kept["rows"] == [{"what": "13 tiles", "figure": "2", "bar": ">= 1.5", "holds": True}]


def test_the_commit_that_is_measured(module, monkeypatch, tmp_path):
    report = module("report")
    assert re.fullmatch(r"[0-9a-f]{7,}\+?|unknown", report.commit())
    (tmp_path / ".git").write_text("no repository")  # lest git look above
    monkeypatch.setattr(report, "ROOT", tmp_path)
    assert report.commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert report.commit() == "unknown"


FIGURES = {
    "encoder": {
        "where": "a machine",
        "commit": "abc1234",
        "rows": [
            {"what": "speed", "figure": "1.6", "bar": ">= 1.5", "holds": True},
            {"what": "error", "figure": "0.02", "bar": "<= 0.01", "holds": False},
            {"what": "share", "figure": "0.7", "bar": "none", "holds": True},
        ],
    },
    "growth": {
        "where": "a machine",
        "tiles": {
            "13": {"encoder": 20.0, "first_token": 26.04, "commit": "later"},
            "1": {"encoder": 1.5, "first_token": 2.0, "commit": "earlier"},
        },
        "questions": {},
        "batch": {"1": {"one_by_one": 3.0, "in_a_batch": 3.0, "commit": "later"}},
    },
}


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.01234, "0.0123"), (57.04, "57"), (999.4, "999"), (999.7, "1000"), (1436.7, "1437")]
)
def test_seconds_have_three_digits_and_no_exponent(module, seconds, said):
    assert module("page").three_digits(seconds) == said


def test_the_page_is_written_from_the_figures(module, monkeypatch, tmp_path):
    """Tables come in the order of their points; what wasn't measured is said so; a second time changes nothing."""
    page, plot, figures = tmp_path / "page.md", tmp_path / "images" / "plot.png", tmp_path / "figures.json"
    plot.parent.mkdir()
    page.write_text((ROOT / "docs" / "performance.md").read_text())
    figures.write_text(json.dumps(FIGURES))
    monkeypatch.setattr(sys, "argv", ["page.py", "--figures", str(figures), "--page", str(page), "--plot", str(plot)])
    assert module("page").main() == 0
    written = page.read_text()
    assert (
        "| `encoder` | speed | >= 1.5 | 1.6 |\n| `encoder` | error | <= 0.01 | **0.02, missed** |\n"
        "| `encoder` | share | none | 0.7 |\n\n`encoder`: a machine" in written
    )
    assert "| 1 | 1.5 | 2 |\n| 13 | 20 | 26 |\n<!-- /tiles -->" in written
    assert "<!-- questions -->\n*Not measured yet.*\n<!-- /questions -->" in written
    assert "](images/plot.png)\n\na machine, commit later, earlier.\n" in written
    with Image.open(plot) as drawn:
        assert drawn.size == (1040, 800)  # one panel: the batch has a single point
    module("page").main()
    assert page.read_text() == written


def test_a_page_without_its_marks_is_an_error(module):
    with pytest.raises(AssertionError, match="0 pairs of marks for bars"):
        module("page").rewrite("# No marks", {"bars": "x"})


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "base", "expected"),
    [
        (1, 32, True, 2, [1, 2, 4, 8, 16, 32]),
        (3, 900, True, 10, [1, 10, 100, 1000]),
        (2, 26, False, 10, [0, 5, 10, 15, 20, 25, 30]),
        (1, 40, False, 2, [0, 10, 20, 30, 40]),
        (5, 5, True, 10, [1, 10]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(module, low, high, logarithmic, base, expected):
    assert module("plot").ticks(low, high, logarithmic, base) == expected


def test_lines_stand_where_their_values_are(module):
    """A line that rises to the highest tick ends at the top right corner of its panel, the second panel beside the first."""
    plot = module("plot")
    panel = plot.Panel("Rise", "s", "n", [0, 10], {"line": [0, 10]})
    picture = plot.draw([panel, panel])
    assert picture.size == (2 * 1040, 800)
    top_right = plot.SCALE * (plot.WIDTH - plot.RIGHT), plot.SCALE * plot.TOP
    assert picture.getpixel(top_right) == plot.COLOURS[0]
    assert picture.getpixel((top_right[0] + 1040, top_right[1])) == plot.COLOURS[0]


def test_packing(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["packing.py", "--examples", "200"])
    module("packing").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["max_tokens", "16384", "8192", "4096", "max_tiles", "24", "40", "48", "64"]
    for line in lines[1:4]:
        plain, ours = (float(share) for share in re.findall(r"([\d.]+) %", line))
        assert ours < plain


def test_make_runs_every_benchmark():
    planned = subprocess.run(["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.search(r"for name in (.*?);", planned)
    assert named is not None
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert set(named[1].split()) == there - SHARED
    assert there > SHARED


def test_training(module, capsys, monkeypatch):
    """Packing, kept features and the chunked loss, on next to nothing."""
    training = module("training")
    given = SimpleNamespace(rows=6, width=32, depth=1, rounds=1, tiles=2, loss_tokens=64, loss_width=16, loss_vocabulary=500)
    bars = list(training.measure(given))
    assert [bar.what.split(",")[0] for bar in bars] == ["samples/s", "samples/s", "samples/s", "peak memory of the loss"]
    assert all(bar.value > 0 for bar in bars)
