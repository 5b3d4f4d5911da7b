from __future__ import annotations

from pathlib import Path

from reidge.edge.site import load_site

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_for_recordings_is_a_site_file() -> None:
    site = load_site(EXAMPLES / "files.yaml")
    assert [camera.name for camera in site.cameras] == ["cam1", "cam2"]
    assert site.bundle == EXAMPLES / "bundle"
    assert site.cameras[0].start == site.cameras[1].start == 1780300800.0
