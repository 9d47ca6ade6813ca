from __future__ import annotations

import precision


def test_the_report() -> None:
    runs = {"float32": [(0.9, 0.2), (1.0, 0.4)], "bfloat16": [(0.8, 0.5), (0.8, 0.5)]}
    plain = [2.0 - i / 10 for i in range(11)]
    lines = precision.lines_of(runs, {"gpt": (plain, [*plain[:-1], 1.01])})
    assert "| float32 | 0.9500 (0.9000 to 1.0000) | 0.3000 (0.2000 to 0.4000) |" in lines
    assert "| bfloat16 | 0.8000 (0.8000 to 0.8000) | 0.5000 (0.5000 to 0.5000) |" in lines
    assert "| step | 1 | 3 | 6 | 8 | 11 |" in lines
    assert "| bfloat16 | 2.00000 | 1.80000 | 1.50000 | 1.30000 | 1.01000 |" in lines
    assert any("0.01 apart at most, 1.00% of the way" in line for line in lines)
