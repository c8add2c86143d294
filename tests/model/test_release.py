"""How a kernel is recognised (release.py), on the model alone."""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("release.py asks a Linux kernel", allow_module_level=True)

from .release import BEHAVES, BUGS, Release, candidates, last_answer, model_of


@pytest.mark.parametrize("trait", [*BEHAVES, *BUGS])
def test_a_trait_shows(trait: str) -> None:
    """The history that tells a trait ends differently with it and without it, on the model of some release."""
    history = BEHAVES.get(trait) or BUGS[trait]
    for name in ("6.18", "7.3", "6.12", "6.7"):
        with_it, without = (last_answer(model_of(one), history) for one in candidates(trait, Release.named(name)))
        if with_it != without:
            return
    pytest.fail("the model answers alike")


def test_a_release_is_named_by_the_nearest_one() -> None:
    assert str(Release.named("6.12")) == "6.12"
    found = candidates("written_for_none_generic", Release.named("6.12"))[0]
    assert str(found) == "6.12 with written_for_none_generic"
    assert str(candidates("stale-walk-end", Release.named("7.3"))[1]) == "7.3, without stale-walk-end"
