"""Names that PyTorch's users try are answered with those that are here, truthfully."""

from __future__ import annotations

import re

import pytest

import schuss
from schuss import nn, optim, pytorch_names

TABLES = {
    "tensor": (schuss.zeros(2), pytorch_names.TENSOR),
    "schuss": (schuss, pytorch_names.NAMESPACE),
    "nn": (nn, pytorch_names.NN),
    "utils": (nn.utils, pytorch_names.UTILS),
    "module": (nn.Linear(1, 1), pytorch_names.MODULE),
    "optim": (optim, pytorch_names.OPTIM),
}


@pytest.mark.parametrize("place", TABLES)
def test_every_name_is_absent_and_answered(place):
    thing, table = TABLES[place]
    for name, answer in table.items():
        with pytest.raises(AttributeError, match=re.escape(f"is here: {answer}")):
            getattr(thing, name)


@pytest.mark.parametrize("place", TABLES)
def test_answers_name_what_exists(place):
    _, table = TABLES[place]
    for answer in table.values():
        for path in re.findall(r"schuss\.([\w.]+)", answer):
            found = schuss
            for part in path.split("."):
                found = getattr(found, part)
        for method in re.findall(r"\bx\.(\w+)", answer):
            assert hasattr(schuss.zeros(2, 2), method), answer


def test_other_names_are_plainly_missing():
    with pytest.raises(AttributeError, match=r"Tensor has no attribute 'nonsense'$"):
        _ = schuss.zeros(1).nonsense
    with pytest.raises(AttributeError, match=r"Linear has no attribute 'weigth'$"):
        _ = nn.Linear(1, 1).weigth
