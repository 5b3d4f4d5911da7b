from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

import numpy as np
import pytest

from reidge.demo.people import CLOTHES, MARKS, MIN_MARKS, Person, draw_people, dress_alike


def clothes(person: Person) -> tuple[object, ...]:
    return tuple(asdict(person)[name] for name in CLOTHES)


def dressed(count: int = 20, share: float = 0.2) -> tuple[Person, ...]:
    return dress_alike(draw_people(count, np.random.default_rng(0)), share, np.random.default_rng(1))


@pytest.mark.parametrize(("share", "pairs"), [(0.0, 0), (0.2, 2), (1.0, 10)])
def test_the_share_of_people_who_have_somebody_dressed_like_them_is_as_asked(share: float, pairs: int) -> None:
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for person in dressed(share=share):
        groups[clothes(person)].append(person.pid)
    assert sorted(map(len, groups.values()), reverse=True)[:pairs] == [2] * pairs
    assert len(groups) == 20 - pairs


def test_people_who_are_dressed_alike_can_be_told_apart() -> None:
    groups: defaultdict[tuple[object, ...], list[Person]] = defaultdict(list)
    for person in dressed(60, share=1.0):
        groups[clothes(person)].append(person)
    for one, other in groups.values():
        differ = [any(asdict(one)[name] != asdict(other)[name] for name in names) for names in MARKS]
        assert sum(differ) >= MIN_MARKS


def test_nobody_changes_who_has_nobody_dressed_like_them() -> None:
    people = draw_people(20, np.random.default_rng(0))
    changed = [a.pid for a, b in zip(people, dressed(), strict=True) if a != b]
    assert len(changed) == 2  # of each of the two pairs one keeps their own clothes
    assert [person.pid for person in dressed()] == list(range(1, 21))
