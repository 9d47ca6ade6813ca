"""What tests of all parts share: the tier that computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schuss.context import context
from schuss.execution import tiers


@pytest.fixture(autouse=True)
def nothing_pending() -> Iterator[None]:
    """What a test has recorded and still holds on to is not for the next one to compute."""
    yield
    for waiting in (context.pending, context.unsettled, context.spent):
        waiting.clear()


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
