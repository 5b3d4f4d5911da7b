from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle, BundleError, HashMismatch, describe_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(bundle: Path) -> str:
    """The one line by which the bundle is refused."""
    with pytest.raises(BundleError) as refused:
        Bundle.load(bundle)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_whole_bundle_loads(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert bundle.manifest.input.size == (32, 16)
    assert bundle.manifest.precisions == ("float",)
    assert bundle.manifest.threshold["float"].min_similarity == 0.9
    assert bundle.golden.crops_NHW3.shape == (16, 32, 16, 3)
    assert bundle.onnx_path("float") == tiny_bundle / "encoder.onnx"
    assert bundle.encoder_hash == describe_file(tiny_bundle / "encoder.onnx").sha256


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "is not a bundle: manifest.json is missing" in refusal(tmp_path)
    assert "is not a bundle" in refusal(tmp_path / "absent")


def test_a_missing_file_is_named(tiny_bundle: Path) -> None:
    (tiny_bundle / "golden.npz").unlink()
    assert "golden.npz" in refusal(tiny_bundle)


def test_a_truncated_graph_is_called_truncated(tiny_bundle: Path) -> None:
    path = tiny_bundle / "encoder.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    assert "encoder.onnx is truncated" in refusal(tiny_bundle)


def test_one_changed_byte_is_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "encoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(HashMismatch, match=r"encoder\.onnx was changed after the export"):
        Bundle.load(tiny_bundle)


def test_another_schema_version_says_both_versions(tiny_bundle: Path) -> None:
    change_manifest(tiny_bundle, lambda content: content.update(schema_version=7))
    assert "schema version 7, this reidge reads 1" in refusal(tiny_bundle)


@pytest.mark.parametrize("content", ['{"schema_version": 1,', "[" * 100_000], ids=["cut off", "deep"])
def test_a_manifest_that_is_not_json_is_refused(tiny_bundle: Path, content: str) -> None:
    (tiny_bundle / "manifest.json").write_text(content)
    assert "is not JSON" in refusal(tiny_bundle)


def test_an_unknown_manifest_key_is_named(tiny_bundle: Path) -> None:
    change_manifest(tiny_bundle, lambda content: content["input"].update(normalise=True))
    assert "input.normalise" in refusal(tiny_bundle)


def test_a_file_name_cannot_leave_the_bundle(tiny_bundle: Path) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    change_manifest(tiny_bundle, lambda content: content["files"].update({"../../etc/passwd": entry}))
    assert "not a plain file name" in refusal(tiny_bundle)


def test_golden_crops_of_another_size_are_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "golden.npz"
    np.savez(path, crops=np.zeros((2, 8, 8, 3), np.uint8), embeddings=np.zeros((2, 24), np.float32))
    entry = describe_file(path).model_dump()
    change_manifest(tiny_bundle, lambda content: content["files"].update({"golden.npz": entry}))
    assert "golden.npz has shapes" in refusal(tiny_bundle)


def test_a_pickled_golden_file_is_never_unpickled(tiny_bundle: Path) -> None:
    path = tiny_bundle / "golden.npz"
    np.savez(path, crops=np.array([object()]), embeddings=np.zeros((1, 24), np.float32))
    entry = describe_file(path).model_dump()
    change_manifest(tiny_bundle, lambda content: content["files"].update({"golden.npz": entry}))
    assert "holds no golden crops" in refusal(tiny_bundle)


def test_asking_for_a_precision_the_bundle_lacks_lists_what_it_has(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no int8 graph, only float"):
        Bundle.load(tiny_bundle).onnx_path("int8")


@pytest.mark.parametrize("name", ["encoder.onnx", "golden.npz", "manifest.json"])
@pytest.mark.parametrize("length", [0, 1, 300])
def test_no_file_can_be_cut_short_unnoticed(tiny_bundle: Path, name: str, length: int) -> None:
    path = tiny_bundle / name
    path.write_bytes(path.read_bytes()[:length])
    assert name in refusal(tiny_bundle)


def test_no_changed_byte_of_the_golden_crops_goes_unnoticed(tiny_bundle: Path) -> None:
    path = tiny_bundle / "golden.npz"
    content = path.read_bytes()
    for place in range(0, len(content), 1009):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x80]) + content[place + 1 :])
        assert "golden.npz was changed after the export" in refusal(tiny_bundle)


def test_a_file_that_grew_is_not_the_one_that_was_exported(tiny_bundle: Path) -> None:
    with (tiny_bundle / "encoder.onnx").open("ab") as file:
        file.write(b"more")
    assert "encoder.onnx was changed after the export" in refusal(tiny_bundle)


def test_a_graph_that_was_swapped_for_another_one_is_refused(tiny_bundle: Path) -> None:
    # The other graph is sound; but it is not the one that the golden crops and the threshold belong to.
    (tiny_bundle / "encoder.onnx").write_bytes((tiny_bundle / "golden.npz").read_bytes())
    assert "encoder.onnx" in refusal(tiny_bundle)


def test_a_folder_in_place_of_a_file_is_refused(tiny_bundle: Path) -> None:
    (tiny_bundle / "encoder.onnx").unlink()
    (tiny_bundle / "encoder.onnx").mkdir()
    assert "encoder.onnx of the bundle cannot be read: Is a directory" in refusal(tiny_bundle)


def test_a_manifest_that_is_a_folder_or_no_text_is_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    path.write_bytes(b"\xff\xfe")
    assert "is not JSON" in refusal(tiny_bundle)
    path.unlink()
    path.mkdir()
    assert "cannot be read: Is a directory" in refusal(tiny_bundle)


@pytest.mark.parametrize("content", ["[]", "null", "7", '{"schema_version": true}', '{"schema_version": 1}'])
def test_json_that_is_no_manifest_is_refused(tiny_bundle: Path, content: str) -> None:
    (tiny_bundle / "manifest.json").write_text(content)
    assert "manifest.json" in refusal(tiny_bundle)


def test_a_bundle_on_a_read_only_disk_loads_and_stays_as_it_is(tiny_bundle: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tiny_bundle.iterdir()}
    for path in tiny_bundle.iterdir():
        path.chmod(0o444)
    tiny_bundle.chmod(0o555)
    try:
        with open_encoder(Bundle.load(tiny_bundle), "onnxruntime", threads=1) as encoder:
            assert encoder.precision == "float"
    finally:
        tiny_bundle.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in tiny_bundle.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_nobody_may_read_says_so(tiny_bundle: Path) -> None:
    (tiny_bundle / "encoder.onnx").chmod(0)
    assert "cannot be read: Permission denied" in refusal(tiny_bundle)
