from __future__ import annotations

import numpy as np
import pytest

import elementwise
import schuss


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", elementwise.DTYPES)
def test_the_pairs_compute_the_same(dtype: str) -> None:
    count = 0
    for kind, name, arrays in elementwise.cases(dtype, 50):
        ours = getattr(schuss, name)(*[schuss.tensor(each) for each in arrays]).numpy()
        theirs = getattr(np, elementwise.numpy_name(name))(*arrays)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=f"{kind} {name}")
        count += 1
    assert count >= (4 if dtype == "bool" else 20)


def test_programs_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "PROGRAM", 30)
    monkeypatch.setattr(elementwise, "PROGRAM_SIZE", 20)
    ours, theirs = elementwise.program("float64")
    times = elementwise.measured((ours, theirs), 2)
    assert [len(each) for each in times] == [2, 2]


def test_page() -> None:
    rows = [
        elementwise.row("float32", name, [2.0, 1.0], [b]) for name, b in (("a", 3.0), ("b", 0.5))
    ]
    lines = elementwise.lines_of(rows, 2, 1)
    assert lines[-2:] == [
        "| b | float32 | 1.00 | 0.500 | 0.50 |",
        "| a | float32 | 1.00 | 3.00 | 3.00 |",
    ]
    assert "1 of 2 are slower than NumPy" in lines[2]
