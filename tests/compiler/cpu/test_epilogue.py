"""What epilogues of templates ask for before they need it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import schuss
from schuss import nn
from schuss.compiler.cpu import lower
from schuss.execution import tiers


class Shortcut(nn.Module):
    """Three convolutions and a way around the second."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.third = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        return self.third((x + self.second(x)).relu())


@pytest.mark.parametrize("channels", [24, 32])  # direct, and by minimal filtering
def test_what_convolutions_ask_for(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_mode", "compiled")
    schuss.manual_seed(0)
    model, x = Shortcut(channels).eval(), schuss.random.normal((1, channels, 13, 12))
    with schuss.no_grad():
        expected = model(x).numpy()

    def prefetches() -> list[str]:
        made = model.compile_for_inference()
        np.testing.assert_allclose(made(x).numpy(), expected, rtol=1e-5, atol=1e-5)
        (prepared,) = made._programs.values()
        calls = prepared._program.compiled.calls
        texts = [call.source.text for each in calls for group in each.groups for call in group]
        (text,) = [each for each in texts if "fcmp" in each]  # of the relu
        assert ("winograd" in text) == (channels == 32)
        text = text.replace("%soon.now", "")  # what tiles are summed up from
        return re.findall(r"call void @llvm.prefetch.p0\(ptr [^,]+, i32 (\d)", text)

    assert prefetches() == ["0"]  # what is added
    monkeypatch.setattr(lower, "_FAR", 0)
    assert prefetches() == ["0", "1"]  # and the result
