from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from reidge.train.schedule import ScheduleConfig

KINDS = get_args(ScheduleConfig.model_fields["kind"].annotation)


def eps_at(kind: str, eps: float, epoch: int, epochs: int) -> float:
    return ScheduleConfig.model_validate({"kind": kind, "floor": 0.4}).eps_at(eps, epoch, epochs)


def test_fixed_never_changes() -> None:
    assert [eps_at("fixed", 0.6, epoch, 50) for epoch in (0, 1, 49)] == [0.6] * 3


@pytest.mark.parametrize("kind", ["step", "linear", "log"])
def test_eps_goes_from_the_start_to_the_floor(kind: str) -> None:
    course = [eps_at(kind, 0.7, epoch, 30) for epoch in range(30)]
    assert course[0] == 0.7
    assert course[-1] == pytest.approx(0.4)
    assert course == sorted(course, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_eps_below_the_floor_stays(kind: str) -> None:
    assert [eps_at(kind, 0.3, epoch, 9) for epoch in range(9)] == [0.3] * 9


@pytest.mark.parametrize("kind", ["step", "linear", "log"])
def test_epochs_past_the_last_keep_its_eps(kind: str) -> None:
    assert eps_at(kind, 0.7, 40, 30) == eps_at(kind, 0.7, 29, 30)


@pytest.mark.parametrize("kind", ["fixed", "step", "linear", "log"])
def test_a_single_epoch_has_the_eps_of_the_recipe(kind: str) -> None:
    assert eps_at(kind, 0.7, 0, 1) == 0.7


def test_a_schedule_that_raises_eps_is_refused() -> None:
    with pytest.raises(ValidationError):
        ScheduleConfig(kind="exponential", factor=1.01)
    with pytest.raises(ValidationError):
        ScheduleConfig.model_validate({"kind": "cosine"})
