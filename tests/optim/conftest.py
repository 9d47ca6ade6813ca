"""What the tests of optimizers share."""

from __future__ import annotations

import pytest

import schuss


@pytest.fixture(autouse=True)
def seed() -> None:
    """Initial values do not depend on which tests ran before."""
    schuss.manual_seed(0)
