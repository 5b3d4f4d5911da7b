from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

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


def test_a_manifest_that_is_not_json_is_refused(tiny_bundle: Path) -> None:
    (tiny_bundle / "manifest.json").write_text('{"schema_version": 1,')
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
