from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reidge.cli.main import main
from reidge.edge.schema import DIALECT, site_schema
from reidge.edge.site import load_site

SITES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SCHEMA = site_schema()


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


def unknown_keys(value: Any, node: dict[str, Any], place: str = "") -> list[str]:
    """Settings for which the schema has no place, the way an editor would underline them."""
    node = resolved(node)
    if isinstance(value, list):
        inner = node.get("items", {})
        return [key for number, each in enumerate(value) for key in unknown_keys(each, inner, f"{place}.{number}")]
    if not isinstance(value, dict):
        return []
    if "discriminator" in node:
        node = resolved({"$ref": node["discriminator"]["mapping"][value["kind"]]})
    elif "anyOf" in node:
        node = next(option for option in map(resolved, node["anyOf"]) if "properties" in option)
    found = []
    for key, inner in value.items():
        if key not in node["properties"]:
            found.append(f"{place}.{key}")
        else:
            found += unknown_keys(inner, node["properties"][key], f"{place}.{key}")
    return found


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", "--schema"])
    assert end.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == SCHEMA
    assert printed["$schema"] == DIALECT
    assert printed["required"] == ["bundle", "cameras"]


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.name)
def test_the_examples_use_nothing_that_it_does_not_know(path: Path) -> None:
    assert unknown_keys(yaml.safe_load(path.read_text()), SCHEMA) == []


def test_what_it_does_not_know_is_found() -> None:
    wrong = {"bundel": "b", "cameras": [{"name": "a", "sauce": "b"}], "detector": {"kind": "yolox", "boxes": "b"}}
    assert unknown_keys(wrong, SCHEMA) == [".bundel", ".cameras.0.sauce", ".detector.boxes"]


def test_docstrings_of_settings_are_descriptions_also_those_that_are_inherited() -> None:
    assert SCHEMA["properties"]["bundle"]["description"] == "The bundle folder."
    assert SCHEMA["$defs"]["YoloxConfig"]["properties"]["path"]["description"] == "The ONNX file."
    assert SCHEMA["$defs"]["CameraConfig"]["properties"]["name"]["description"] == "Its camid."


def test_every_section_and_everything_about_the_broker_is_described() -> None:
    for node in (SCHEMA, SCHEMA["$defs"]["MqttConfig"]):
        assert [name for name, found in node["properties"].items() if not found.get("description")] == []


def test_a_placeholder_may_stand_for_a_number_or_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = SCHEMA["$defs"]["CameraConfig"]["properties"]
    for name in ("max_fps", "pace", "name"):
        assert {"$ref": "#/$defs/Placeholder"} in camera[name]["anyOf"]
    monkeypatch.setenv("FPS", "7.5")
    (tmp_path / "site.yaml").write_text(
        "bundle: b\ncameras: [{name: '${NAME_:-cam1}', source: a.mp4, max_fps: '${FPS}'}]"
    )
    (found,) = load_site(tmp_path / "site.yaml").cameras
    assert (found.name, found.max_fps) == ("cam1", 7.5)


def test_a_secret_may_stand_in_a_file() -> None:
    assert "token_file" in SCHEMA["$defs"]["WebConfig"]["properties"]
    assert "password_file" in SCHEMA["$defs"]["MqttConfig"]["properties"]


def test_a_time_may_be_written_as_text() -> None:
    assert {"type": ["number", "string"]} in SCHEMA["$defs"]["CameraConfig"]["properties"]["start"]["anyOf"]


def test_every_kind_of_detector_has_to_say_which_it_is() -> None:
    kinds = SCHEMA["properties"]["detector"]["discriminator"]["mapping"]
    assert set(kinds) == {"motion", "yolox", "rtdetr", "nanodet", "boxes", "bundle"}
    for reference in kinds.values():
        assert "kind" in resolved({"$ref": reference})["required"]
