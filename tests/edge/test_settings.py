from __future__ import annotations

import pytest

from reidge.edge.errors import InputError
from reidge.edge.settings import apply_overrides, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01 00:01:00", 60.0),  # without a zone: UTC
        ("60.5", 60.5),
        (60, 60.0),
    ],
)
def test_times_are_iso_8601_or_seconds(text: str | float, seconds: float) -> None:
    assert parse_time(text, what="start") == seconds


def test_a_wrong_time_names_its_setting() -> None:
    with pytest.raises(InputError, match="start: 'noon' is not a time"):
        parse_time("noon", what="start")


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e15", "1899-12-31T23:59:59Z", "3001-01-01T00:00:00Z"])
def test_a_time_that_no_event_could_tell_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"start: '{text}' is not between the years 1900 and 3000"):
        parse_time(text, what="start")


def test_overrides_reach_into_dicts_and_lists_and_leave_the_original() -> None:
    values = {"cameras": [{"name": "a"}], "detector": {"kind": "motion"}}
    changed = apply_overrides(values, ["cameras.0.name=b", "detector.min_height=0.2", "outputs.events=null"])
    assert changed == {
        "cameras": [{"name": "b"}],
        "detector": {"kind": "motion", "min_height": 0.2},
        "outputs": {"events": None},
    }
    assert values["cameras"] == [{"name": "a"}]


@pytest.mark.parametrize("override", ["novalue", "cameras.7.name=b", "cameras.x=b", "bundle.path.x=1", "a=[1"])
def test_an_override_that_leads_nowhere_is_named(override: str) -> None:
    with pytest.raises(InputError, match="--set"):
        apply_overrides({"cameras": [{"name": "a"}], "bundle": "b"}, [override])


def test_words_of_ours_that_yaml_takes_for_empty_collections_stay_words() -> None:
    changed = apply_overrides({}, ["gallery=:memory:", "events=-", "none=null", "list=[null]", "mapping={a: null}"])
    assert changed == {"gallery": ":memory:", "events": "-", "none": None, "list": [None], "mapping": {"a": None}}
