"""The safetensors reader and writer, judged by the safetensors package and by damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy as judge

from schuss import dtypes
from schuss.errors import ArgumentError, ArgumentTypeError, FileFormatError, StorageError
from schuss.safetensors import load_file, save_file

STORABLE = [dtype for dtype in dtypes.ALL if dtype != dtypes.complex128]


def random_array(dtype: dtypes.DType, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed).integers(0, 100, shape)
    return np.asarray(numbers % 2 == 0 if dtype == dtypes.bool_ else numbers).astype(dtype)


def example_arrays() -> dict[str, np.ndarray]:
    arrays = {str(dtype): random_array(dtype, (2, 3)) for dtype in STORABLE}
    arrays["scalar"] = np.array(1.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.int8)
    arrays["layers.0.größe"] = np.arange(5.0)
    return arrays


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, mapped: bool) -> None:
    save_file(tmp_path / "a", example_arrays(), {"b": "2", "a": "ä"})
    arrays, metadata = load_file(tmp_path / "a", mapped=mapped)
    assert_same(arrays, example_arrays())
    assert metadata == {"a": "ä", "b": "2"}
    assert not any(array.flags.writeable for array in arrays.values())


def test_bytes_are_those_of_the_judge(tmp_path: Path) -> None:
    save_file(tmp_path / "a", example_arrays(), {"format": "np"})
    assert (tmp_path / "a").read_bytes() == judge.save(example_arrays(), {"format": "np"})


@pytest.mark.parametrize("dtype", [d for d in STORABLE if d != dtypes.bfloat16], ids=str)
def test_the_judge_reads_ours(tmp_path: Path, dtype: dtypes.DType) -> None:
    arrays = {"x": random_array(dtype, (3, 2)), "y": random_array(dtype, ())}
    save_file(tmp_path / "a", arrays)
    assert_same(judge.load_file(tmp_path / "a"), arrays)


def test_the_judge_reads_our_bfloat16(tmp_path: Path) -> None:
    array = random_array(dtypes.bfloat16, (3, 2))
    save_file(tmp_path / "a", {"x": array})
    [(name, read)] = safetensors.deserialize((tmp_path / "a").read_bytes())
    assert (name, read["dtype"], read["shape"]) == ("x", "BF16", [3, 2])
    assert bytes(read["data"]) == array.tobytes()


def test_we_read_the_judges(tmp_path: Path) -> None:
    judge.save_file(example_arrays(), tmp_path / "a", {"key": "value"})
    arrays, metadata = load_file(tmp_path / "a")
    assert_same(arrays, example_arrays())
    assert metadata == {"key": "value"}


def test_other_layouts_and_byte_orders(tmp_path: Path) -> None:
    array = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    given = {"transposed": array.T, "strided": array[:, ::2], "big": array.astype(">f4")}
    save_file(tmp_path / "a", given)
    arrays, _ = load_file(tmp_path / "a")
    expected = {name: np.ascontiguousarray(value, np.float32) for name, value in given.items()}
    assert_same(arrays, expected)


def test_complex128_is_an_extension_that_others_can_read(tmp_path: Path) -> None:
    arrays = {"x": np.array([1 + 2j, 3 - 4j]), "y": np.array(5j), "z": np.zeros((0, 2), complex)}
    save_file(tmp_path / "a", arrays, {"key": "value"})
    found, metadata = load_file(tmp_path / "a")
    assert_same(found, arrays)
    assert metadata == {"key": "value"}
    assert judge.load_file(tmp_path / "a")["x"].tolist() == [[1, 2], [3, -4]]


def test_nothing_to_save(tmp_path: Path) -> None:
    save_file(tmp_path / "a", {})
    assert load_file(tmp_path / "a") == ({}, {})


def test_an_existing_file_is_replaced_and_maps_of_it_stay(tmp_path: Path) -> None:
    save_file(tmp_path / "a", {"x": np.zeros(3)})
    before, _ = load_file(tmp_path / "a")
    save_file(tmp_path / "a", {"x": np.ones(3)})
    assert before["x"].tolist() == [0, 0, 0]
    assert load_file(tmp_path / "a")[0]["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arrays", "metadata", "kind", "text"),
    [
        ({"x": np.array(["a"])}, {}, ArgumentTypeError, "none that a safetensors file can hold"),
        ({3: np.zeros(1)}, {}, ArgumentTypeError, "array name must be a text"),
        ({"\ud800": np.zeros(1)}, {}, ArgumentError, "array name is not valid Unicode"),
        ({"__metadata__": np.zeros(1)}, {}, ArgumentError, "reserved by the format"),
        ({}, {"a": 1}, ArgumentTypeError, "metadata must be a text"),
        ({}, {"schuss.complex128": "[]"}, ArgumentError, "schuss.complex128 is reserved"),
    ],
)
def test_what_cannot_be_saved(
    tmp_path: Path, arrays: Any, metadata: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        save_file(tmp_path / "a", arrays, metadata)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"No such file or directory: .*absent"):
        load_file(tmp_path / "absent")


# What a hostile or damaged file may hold, and what the error says.

GOOD = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_bytes(header: object, data: bytes = b"12345678") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: object) -> bytes:
    return file_bytes({"x": GOOD["x"] | changes})


DAMAGED = {
    "no bytes": (b"", "it has 0 bytes"),
    "cut in the length": (b"\x08\0\0", "it has 3 bytes"),
    "cut in the header": (file_bytes(GOOD)[:20], "its header should be"),
    "cut in the numbers": (file_bytes(GOOD)[:-1], "the file holds 7"),
    "absurd header length": (
        b"\xff" * 8 + b"{}",
        "its header should be 18446744073709551615 bytes",
    ),
    "trailing bytes": (file_bytes(GOOD, b"123456789"), "the file holds 9"),
    "not JSON": (file_bytes(b'{"x": '), "not valid JSON"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "not valid JSON"),
    "half a surrogate pair": (file_bytes(b'{"\\ud800": 1}'), "not valid JSON"),
    "not an object": (file_bytes(b"[]"), "does not begin with"),
    "leading space": (file_bytes(b" {}"), "does not begin with"),
    "nested too deeply": (file_bytes(b'{"x":' + b"[" * 100_000), "not valid JSON"),
    "number too long": (file_bytes(b'{"x":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "name twice": (file_bytes(b'{"x": {}, "x": {}}'), "a key occurs twice"),
    "NaN": (file_bytes(b'{"x": NaN}'), "NaN is not a number"),
    "metadata of numbers": (file_bytes({"__metadata__": {"a": 1}}, b""), "map texts to texts"),
    "metadata a list": (file_bytes({"__metadata__": []}, b""), "map texts to texts"),
    "entry not an object": (file_bytes({"x": 3}), "'x' must have a dtype"),
    "entry incomplete": (file_bytes({"x": {"dtype": "F32"}}), "'x' must have a dtype"),
    "entry with more": (entry(more=1), "'x' must have a dtype"),
    "unknown dtype": (entry(dtype="F31"), "unknown dtype 'F31'"),
    "dtype not a text": (entry(dtype=["F32"]), "unknown dtype"),
    "negative shape": (entry(shape=[-2]), "impossible shape"),
    "fractional shape": (entry(shape=[2.0]), "impossible shape"),
    "boolean shape": (entry(shape=[True]), "impossible shape"),
    "shape not a list": (entry(shape=2), "impossible shape"),
    "too many axes": (entry(shape=[1] * 65), "impossible shape"),
    "huge shape": (entry(shape=[2**40, 2**40]), "by its shape and 8 by"),
    "huge empty shape": (entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "the file holds 8"),
    "beyond 64 bits": (entry(shape=[0, 2**64], data_offsets=[0, 0]), "impossible shape"),
    "shape is not the size": (entry(shape=[3]), "12 bytes by its shape and 8 by"),
    "negative offset": (entry(data_offsets=[-8, 0]), "impossible data_offsets"),
    "offsets backwards": (entry(data_offsets=[8, 0]), "impossible data_offsets"),
    "three offsets": (entry(data_offsets=[0, 4, 8]), "impossible data_offsets"),
    "beyond the end": (entry(shape=[4], data_offsets=[0, 16]), "its arrays take 16 bytes"),
    "hole": (entry(shape=[1], data_offsets=[4, 8]), "'x' begins at 4"),
    "overlap": (file_bytes(GOOD | {"y": GOOD["x"]}), "begins at 0, the array before it ends at 8"),
    "BOOL of other bytes": (entry(dtype="BOOL", shape=[8]), "other bytes than 0 and 1"),
    "impossible empty": (
        file_bytes({"x": GOOD["x"] | {"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""),
        "impossible shape",
    ),
    "complex128 without pairs": (
        file_bytes(GOOD | {"__metadata__": {"schuss.complex128": '["x"]'}}),
        "'x' is listed as complex128",
    ),
    "complex128 not a list": (
        file_bytes(GOOD | {"__metadata__": {"schuss.complex128": "{"}}),
        "is not a list of names",
    ),
}


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(tmp_path: Path, case: str, mapped: bool) -> None:
    content, text = DAMAGED[case]
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=text) as caught:
        load_file(path, mapped=mapped)
    assert "broken.safetensors" in str(caught.value)


def flip(data: bytearray, random: np.random.Generator) -> bytes:
    for _ in range(random.integers(1, 4)):
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
    return bytes(data)


def cut(data: bytearray, random: np.random.Generator) -> bytes:
    return bytes(data[: random.integers(len(data))])


@pytest.mark.parametrize("damage", [flip, cut])
def test_random_damage_is_found_or_harmless(
    tmp_path: Path, damage: Callable[[bytearray, np.random.Generator], bytes]
) -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "flags": np.ones(5, bool), "z": np.array(1 + 2j)}
    path = tmp_path / "a"
    save_file(path, arrays, {"key": "value"})
    content = path.read_bytes()
    sizes = sum(array.nbytes for array in arrays.values())
    random = np.random.default_rng(7)
    outcomes = set()
    for _ in range(1000):
        path.write_bytes(damage(bytearray(content), random))
        try:
            found, _ = load_file(path)
        except FileFormatError:
            outcomes.add("refused")
        else:
            outcomes.add("loaded")
            assert sum(array.nbytes for array in found.values()) == sizes
    assert outcomes == ({"refused", "loaded"} if damage is flip else {"refused"})
