"""Who walks through the simulated site: build, clothes, hair and bag of each person.

Colours come from a small shared palette, so that many people wear the same colours and only the combination of cut,
pattern, hair and bag tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

Colour = tuple[float, float, float]
"""BGR, 0 to 1."""

Top = Literal["t-shirt", "long sleeves", "open jacket", "coat"]
Bottom = Literal["trousers", "shorts", "skirt", "long skirt"]
Pattern = Literal["plain", "hoops", "pinstripes", "checks", "two-tone", "front print", "back print", "sleeves"]
Hair = Literal["short", "long", "bald", "bun", "cap"]
Bag = Literal["none", "backpack", "shoulder bag", "handbag"]
Choice = TypeVar("Choice")

CLOTHING: tuple[Colour, ...] = (
    (0.10, 0.10, 0.11),  # black
    (0.34, 0.34, 0.35),  # grey
    (0.82, 0.83, 0.84),  # white
    (0.36, 0.20, 0.12),  # navy
    (0.62, 0.42, 0.24),  # denim
    (0.16, 0.14, 0.58),  # red
    (0.24, 0.40, 0.22),  # green
    (0.52, 0.68, 0.78),  # beige
    (0.18, 0.28, 0.40),  # brown
    (0.20, 0.62, 0.80),  # mustard
)
CLOTHES = ("top", "top_pattern", "top_colour", "accent", "bottom", "bottom_colour", "shoes")
"""What people who are dressed alike share."""
MARKS = (("skin",), ("hair", "hair_colour"), ("bag", "bag_colour"))
"""What else can be seen of a person; build is hard to see from afar."""
MIN_MARKS = 2
"""Of `MARKS`, by which people who are dressed alike differ at least: nobody could tell them apart otherwise."""
SKIN: tuple[Colour, ...] = ((0.66, 0.76, 0.92), (0.50, 0.62, 0.80), (0.34, 0.46, 0.66), (0.20, 0.28, 0.42))
HAIR: tuple[Colour, ...] = ((0.06, 0.06, 0.07), (0.12, 0.20, 0.32), (0.36, 0.58, 0.74), (0.62, 0.63, 0.64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Everything about a person that does not change while they are on the site."""

    pid: int
    height: float
    """Metres."""
    girth: float
    """Width relative to the average build."""
    skin: Colour
    hair: Hair
    hair_colour: Colour
    top: Top
    top_pattern: Pattern
    top_colour: Colour
    accent: Colour
    """Second colour of the top's pattern, or the shirt below an open jacket."""
    bottom: Bottom
    bottom_colour: Colour
    shoes: Colour
    bag: Bag
    bag_colour: Colour
    pace: float
    """Walking speed, metres per second."""
    gait: float
    """Phase of the walk when the person is first seen, radians."""


def draw_people(count: int, rng: np.random.Generator) -> tuple[Person, ...]:
    """Draw `count` people, pid 1 upwards; no two agree in both colours and the kind of clothes below the waist."""
    people: list[Person] = []
    looks: set[tuple[object, ...]] = set()
    while len(people) < count:
        person = _draw(len(people) + 1, rng)
        look = (person.top_colour, person.bottom, person.bottom_colour)
        if look not in looks:
            looks.add(look)
            people.append(person)
    return tuple(people)


def dress_alike(people: Sequence[Person], share: float, rng: np.random.Generator) -> tuple[Person, ...]:
    """Give people the clothes of somebody else, all of them: only build, hair, skin and bag tell the two apart.

    Args:
        people: Keep their order and pids.
        share: Of the people who have somebody dressed like them, 0 to 1; they come in pairs.
        rng: Decides who.
    """
    dressed = list(people)
    order = rng.permutation(len(people))[: 2 * round(share * len(people) / 2)]
    for first, second in zip(order[::2].tolist(), order[1::2].tolist(), strict=True):
        model = dressed[first]
        clothes = {name: getattr(model, name) for name in CLOTHES}
        while _marks(dressed[second], model) < MIN_MARKS:
            other = _draw(0, rng)
            marks = {name: getattr(other, name) for names in MARKS for name in names}
            dressed[second] = replace(dressed[second], **marks)
        dressed[second] = replace(dressed[second], **clothes)
    return tuple(dressed)


def _marks(one: Person, other: Person) -> int:
    """How many marks tell two people apart; the colour of nobody's hair or of no bag is none."""

    def look(person: Person) -> list[tuple[object, ...]]:
        hair = (person.hair,) if person.hair == "bald" else (person.hair, person.hair_colour)
        bag = (person.bag,) if person.bag == "none" else (person.bag, person.bag_colour)
        return [(person.skin,), hair, bag]

    return sum(a != b for a, b in zip(look(one), look(other), strict=True))


def _draw(pid: int, rng: np.random.Generator) -> Person:
    top_colour, accent = _two(CLOTHING, rng)
    return Person(
        pid=pid,
        height=float(rng.uniform(1.52, 1.95)),
        girth=float(rng.uniform(0.82, 1.30)),
        skin=_one(SKIN, rng),
        hair=_one(get_args(Hair), rng),
        hair_colour=_one(HAIR, rng),
        top=_one(get_args(Top), rng),
        top_pattern=_one(get_args(Pattern), rng),
        top_colour=top_colour,
        accent=accent,
        bottom=_one(get_args(Bottom), rng, weights=(0.55, 0.17, 0.16, 0.12)),
        bottom_colour=_one(CLOTHING[:9], rng),
        shoes=_one(CLOTHING[:3], rng),
        bag=_one(get_args(Bag), rng, weights=(0.34, 0.28, 0.2, 0.18)),
        bag_colour=_one(CLOTHING, rng),
        pace=float(rng.uniform(1.0, 1.5)),
        gait=float(rng.uniform(0, 6.28)),
    )


def _one(choices: tuple[Choice, ...], rng: np.random.Generator, weights: tuple[float, ...] | None = None) -> Choice:
    return choices[int(rng.choice(len(choices), p=weights))]


def _two(choices: tuple[Choice, ...], rng: np.random.Generator) -> tuple[Choice, Choice]:
    first, second = rng.choice(len(choices), size=2, replace=False)
    return choices[int(first)], choices[int(second)]
