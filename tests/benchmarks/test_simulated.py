from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from reidge.edge.crops import read_crop_folder
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def simulated(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("simulated")


def pids_of(folder: Path) -> set[int]:
    return {int(path.name.split("_")[0]) for path in folder.iterdir()}


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_processes(
    simulated: ModuleType, tiny_data: Path, tmp_path: Path
) -> None:
    simulated.simulate(simulated.SETTINGS["tiny"], tmp_path / "again", jobs=2)
    assert bytes_of(tmp_path / "again") == bytes_of(tiny_data)


def test_nobody_to_be_recognised_was_trained_on(tiny_data: Path) -> None:
    test = pids_of(tiny_data / "query") | pids_of(tiny_data / "bounding_box_test")
    assert pids_of(tiny_data / "bounding_box_train") & test <= {0}
    assert pids_of(tiny_data / "query") <= pids_of(tiny_data / "bounding_box_test")


def test_the_crop_folder_holds_the_training_images_without_their_identities(tiny_data: Path) -> None:
    crops = {record.path: record for record in read_crop_folder(tiny_data / "crops").records}
    labelled = {path.name.partition("_")[2]: path for path in (tiny_data / "bounding_box_train").iterdir()}
    assert crops.keys() == labelled.keys()
    assert all((tiny_data / "crops" / name).read_bytes() == path.read_bytes() for name, path in labelled.items())
    assert all(name.startswith(f"c{crops[name].camid.removeprefix('cam')}s1_") for name in crops)


def test_a_tracklet_is_one_person_in_one_camera(simulated: ModuleType, tiny_data: Path) -> None:
    pids, seen = simulated.hidden_pids(tiny_data), defaultdict(set)
    for record in read_crop_folder(tiny_data / "crops").records:
        seen[record.tracklet].add((record.camid, pids[record.path]))
    assert all(len(owners) == 1 for owners in seen.values())


def test_some_people_are_seen_by_one_camera_only_and_some_crops_show_nobody(simulated: ModuleType) -> None:
    cuts = [cut for cut in simulated.plan(simulated.SETTINGS["cpu"]) if cut.folder == simulated.TRAIN]
    cameras = defaultdict(set)
    for cut in cuts:
        cameras[cut.pid].add(cut.camera)
    assert 10 <= sum(len(seen) == 1 for pid, seen in cameras.items() if pid) <= 35
    assert {cut.kind for cut in cuts} == {"whole", "half", "pair", "empty"}
    assert 2000 <= len(cuts) <= 4000


def test_a_folder_of_other_settings_is_not_taken_for_this_data_set(simulated: ModuleType, tiny_data: Path) -> None:
    simulated.ensure(simulated.SETTINGS["tiny"], tiny_data)
    with pytest.raises(InputError, match="other settings"):
        simulated.ensure(simulated.SETTINGS["cpu"], tiny_data)
