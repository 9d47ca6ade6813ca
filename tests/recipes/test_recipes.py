"""The recipes run; those that take seconds reach their targets."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

import schuss
from schuss import data
from schuss.random import Generator
from schuss.recipes import Target, all_recipes, find_recipe
from schuss.recipes.fashion_resnet import varied
from schuss.recipes.lenet_sigmoid import lenet
from schuss.recipes.recipe import run_folder

RECIPES = all_recipes()


def test_targets():
    assert Target("x", 0.5).is_reached(0.5)
    assert not Target("x", 0.5).is_reached(float("nan"))
    assert Target("x", 0.5, at_least=False).is_reached(0.4)
    assert not Target("x", 0.5, at_least=False).is_reached(float("nan"))
    assert str(Target("error", 0.5, at_least=False)) == "error <= 0.5"


@pytest.mark.parametrize("name", RECIPES)
def test_form(name):
    """Short, described, and every setting typed and with a default."""
    recipe = RECIPES[name]
    assert recipe.summary.endswith(".")
    assert all(each.default is not inspect.Parameter.empty for each in recipe.settings.values())
    assert list(recipe.meanings) == list(recipe.settings)
    source = Path(inspect.getsourcefile(recipe.function) or "")
    assert len(source.read_text(encoding="utf-8").splitlines()) < 100
    assert source.stem == name.replace("-", "_")


def test_parsing():
    fashion = find_recipe("fashion")
    parsed = fashion.parse(["limit=100", "out=here", "resume=true", "root=none", "lr=1e-2"])
    expected = {"limit": 100, "out": Path("here"), "resume": True, "root": None, "lr": 0.01}
    assert parsed == expected
    assert not fashion.is_full(parsed)
    assert fashion.is_full({})
    assert not fashion.is_full({"epochs": 1})


def test_run_folder(tmp_path, capsys):
    out = tmp_path / "digits"
    assert run_folder(out, resume=True) == out
    assert "nothing to resume" in capsys.readouterr().out
    assert run_folder(out, resume=False) == tmp_path / "digits-2"
    assert run_folder(out, resume=False) == tmp_path / "digits-3"
    assert run_folder(out, resume=True) == tmp_path / "digits-3"
    assert f"resuming the run in {out}-3" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["linear", "xor"])
def test_reaches_its_target(name):
    recipe = RECIPES[name]
    assert recipe.target.is_reached(recipe.function())


def test_approximate_draws(tmp_path):
    recipe = RECIPES["approximate"]
    figure = recipe.function(out=tmp_path / "run", steps=1000)
    assert recipe.target.is_reached(figure)
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_optimizers_draws(tmp_path):
    recipe = RECIPES["optimizers"]
    assert recipe.target.is_reached(recipe.function(out=tmp_path / "run", steps=30))
    for name in ("paths", "curves"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_digits_reaches_its_target_and_resumes(tmp_path):
    recipe = RECIPES["digits"]
    out = tmp_path / "digits"
    figure = recipe.function(epochs=6, out=out)
    assert recipe.target.is_reached(figure)
    assert (out / "curves.png").exists()
    lines = (out / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["validation_accuracy"] == figure
    assert recipe.function(epochs=6, out=out, resume=True) == figure


def test_digits_as_a_plain_loop(tmp_path):
    assert RECIPES["digits"].function(epochs=3, plain=True, out=tmp_path) > 0.95


@pytest.fixture
def small_fashion(tmp_path):
    """A folder in the form of Fashion-MNIST's, with few images of a simple kind."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 200), ("t10k", 80)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, bright = 6 * (label % 5), label < 5  # also to be told where moved or mirrored
            image[row : row + 4, 4:24] = 250 if bright else 130
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim])
            header += b"".join(n.to_bytes(4, "big") for n in array.shape)
            (tmp_path / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return tmp_path


@pytest.mark.parametrize("plain", [False, True])
def test_softmax(small_fashion, plain):
    accuracy = RECIPES["softmax"].function(root=small_fashion, epochs=8, batch_size=20, plain=plain)
    assert accuracy > 0.9


@pytest.mark.parametrize("name", ["fashion", "fashion-resnet"])
def test_fashion(small_fashion, tmp_path, name):
    accuracy = RECIPES[name].function(
        root=small_fashion, epochs=12, batch_size=20, limit=160, out=tmp_path / "run"
    )
    assert accuracy > 0.5


def test_lenet_sigmoid(small_fashion, tmp_path, capsys):
    """The lecture's figures stand beside ours. Sigmoids need full epochs to learn anything."""
    accuracy = RECIPES["lenet-sigmoid"].function(
        root=small_fashion, epochs=2, batch_size=20, limit=160, out=tmp_path / "run"
    )
    printed = capsys.readouterr().out
    assert f"test accuracy {accuracy:.3f}" in printed
    assert "the lecture publishes 0.825 and 52,694" in printed


def test_lenet_starts_from_xaviers_weights():
    network = lenet()
    assert network(schuss.zeros(3, 1, 28, 28)).shape == (3, 10)
    weight, bias = network[0].weight.numpy(), network[0].bias.numpy()
    bound = (6 / (25 * (1 + 6))) ** 0.5
    assert 0.8 * bound < abs(weight).max() <= bound
    assert not bias.any()


def test_varied_images_are_moved_and_mirrored():
    """Every one of 25 places and both sides come up; the image itself stays whole inside."""
    image = np.zeros((1, 7, 9), np.float32)
    image[0, 3, 4:6] = 1.0, 2.0
    generator = Generator(0)
    seen = set()
    for _ in range(1000):
        moved, label = varied((image, 5), generator)
        assert label == 5
        assert moved.shape == image.shape
        assert moved.sum() == 3.0
        seen.add((*np.argwhere(moved[0] == 1.0)[0], *np.argwhere(moved[0] == 2.0)[0]))
    places = [(row, column) for row in range(1, 6) for column in range(2, 7)]
    straight = {(row, column, row, column + 1) for row, column in places}
    turned = {(row, column, row, column - 1) for row, column in places}
    assert seen == straight | turned


def test_char_gpt(tmp_path, monkeypatch, capsys):
    """A text of few words: it learns them, goes on from its checkpoint, and writes some."""
    text = "to be or not to be " * 60
    monkeypatch.setattr(data, "tiny_shakespeare", lambda root: text)
    recipe = RECIPES["char-gpt"]
    assert find_recipe("char-gpt").settings["steps"].default == 2000
    settings = {"steps": 30, "every": 15, "block_size": 8, "layers": 1, "heads": 2, "width": 16}
    settings |= {"lr": 3e-2, "characters": 30, "top_k": 1, "out": tmp_path / "run"}
    loss = recipe.function(**settings)
    assert loss < 1.5  # seven characters, all as likely: 1.95
    printed = capsys.readouterr().out
    assert any(set(line) <= set(text) and len(line) == 30 for line in printed.splitlines())
    assert "nanoGPT publishes 1.88" in printed
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2
    assert (
        '"characters": " benort"'
        in next((tmp_path / "run" / "checkpoints").glob("*30/state.json")).read_text()
    )
    assert recipe.function(**settings, resume=True) == loss
