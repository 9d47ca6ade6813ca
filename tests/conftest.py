"""What tests of all parts share: the tier that computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schuss.execution import tiers


@pytest.fixture
def reference_tier() -> Iterator[None]:
    """For what only the reference tier does: running op by op."""
    with tiers.using("reference"):
        yield


@pytest.fixture
def one_tier() -> Iterator[None]:
    """For repeating a computation within one process: the first run of a structure may be served
    by another tier than the second, whose last bits may differ."""
    with tiers.using("compiled" if tiers.mode() == "auto" else tiers.mode()):
        yield
