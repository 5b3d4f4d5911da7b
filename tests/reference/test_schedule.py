"""The schedules of eps, epoch by epoch."""

from __future__ import annotations

import math

import pytest

from reidge.train.schedule import ScheduleConfig

EPS, FLOOR, EPOCHS = 0.7, 0.4, 13


def exponential() -> list[float]:
    """DCPS as its paper tells it: before each epoch's clustering, while eps is above 0.399."""
    eps, course = EPS, []
    for _ in range(70):
        if eps > 0.399:
            eps = 0.99 * eps
        course.append(eps)
    return course


def test_dcps_equals_its_literal_twin() -> None:
    schedule = ScheduleConfig(kind="exponential")
    course = [schedule.eps_at(EPS, epoch, 70) for epoch in range(70)]
    assert course == pytest.approx(exponential(), abs=1e-12)
    assert course[0] == pytest.approx(0.693)
    assert course[55] == pytest.approx(0.7 * 0.99**56)  # 0.3987, the first at or below 0.399, and the last change
    assert course[56:] == [course[55]] * 14


def test_step_linear_and_log_equal_their_literal_twins() -> None:
    drop = EPS - FLOOR
    courses = {
        "step": [EPS - drop * stair / 3 for stair in (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)],
        "linear": [EPS - drop * epoch / 12 for epoch in range(EPOCHS)],
        "log": [EPS - drop * math.log(1 + epoch) / math.log(13) for epoch in range(EPOCHS)],
    }
    for kind, course in courses.items():
        schedule = ScheduleConfig.model_validate({"kind": kind, "floor": FLOOR})
        assert [schedule.eps_at(EPS, epoch, EPOCHS) for epoch in range(EPOCHS)] == pytest.approx(course, abs=1e-12)
