from __future__ import annotations

import dataclasses
import json
import resource
import stat
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge import cipher
from reidge.edge.archive import (
    Archive,
    CropEntry,
    ExemplarEntry,
    IdentityEntry,
    SightingEntry,
    TombstoneEntry,
    read_archive,
    write_archive,
)
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ANNA, PASS, GONE = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture(autouse=True)
def cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher, "SCRYPT_N", 16)


def small() -> Archive:
    """One person seen once, with a picture, and the uid of somebody who was erased."""
    return Archive(
        encoder="e" * 64,
        embedding_dim=2,
        made_at=1000.0,
        identities=[IdentityEntry(uid=ANNA, number=7, created_at=1.0, last_seen=9.0, name="Anna")],
        sightings=[
            SightingEntry(
                uid=PASS, identity=ANNA, camid="gate", track_id=3, started_at=1.0, ended_at=9.0, similarity=None,
                pictures=4, row=0,
            )
        ],
        sightings_ND=np.array([[0.6, 0.8]], dtype=np.float32),
        exemplars=[ExemplarEntry(identity=ANNA, sighting=PASS, captured_at=9.0, quality=1.0, enrolled=False)],
        exemplars_MD=np.array([[0.6, 0.8]], dtype=np.float32),
        crops=[CropEntry(sighting=PASS, exemplar=None)],
        images=[b"\xff\xd8 a picture of Anna"],
        tombstones=[TombstoneEntry(uid=GONE, kind="identity", erased_at=5.0)],
    )  # fmt: skip


def same(one: Archive, other: Archive) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Archive)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@pytest.mark.parametrize("secret", [None, "correct horse"])
def test_what_is_written_is_read_again(tmp_path: Path, secret: str | None) -> None:
    if secret is not None:
        pytest.importorskip("cryptography")
    path = tmp_path / "deep" / "gallery.zip"
    write_archive(path, small(), secret=secret)
    assert same(read_archive(path, secret=secret), small())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["gallery.zip"]


def test_an_encrypted_archive_shows_nothing_of_whom_it_holds(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    path = tmp_path / "gallery.zip"
    write_archive(path, small(), secret="correct horse")
    content = path.read_bytes()
    assert not any(part in content for part in (small().exemplars_MD.tobytes(), b"Anna", ANNA.encode(), b"gate"))
    for secret, words in ((None, "is encrypted"), ("wrong horse", "another secret")):
        with pytest.raises(InputError, match=words):
            read_archive(path, secret=secret)


def test_an_archive_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "gallery.zip"
    path.write_text("the backup of last week")
    with pytest.raises(InputError, match="already exists"):
        write_archive(path, small())
    assert path.read_text() == "the backup of last week"


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(OSError, match=r"gallery\.zip"):
            write_archive(tmp_path / "gallery.zip", small())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def changed(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Write one member of an archive anew."""
    with zipfile.ZipFile(path) as file:
        members = {member: file.read(member) for member in file.namelist()}
    members[name] = change(members[name])
    with zipfile.ZipFile(path, "w") as file:
        for member, content in members.items():
            file.writestr(member, content)


def other_line(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | values).encode()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("manifest.json", lambda _: b"[]", "something else"),
        ("manifest.json", lambda _: b"{", "no usable archive"),
        ("manifest.json", other_line(version=2), "version 2, this reidge reads 1"),
        ("manifest.json", other_line(exemplars=2), "incomplete"),
        ("identities.jsonl", lambda _: b"", "incomplete"),
        ("identities.jsonl", other_line(uid="../../etc"), r"identities\.jsonl, line 1: uid"),
        ("identities.jsonl", other_line(last_seen=float("inf")), "last_seen"),
        ("identities.jsonl", other_line(number=2**63 - 1), "number"),  # after it no number could be given
        ("exemplars.jsonl", other_line(identity=GONE), "an exemplar is of nobody"),
        ("sightings.jsonl", other_line(identity=GONE), "a sighting is of nobody"),
        ("sightings.jsonl", other_line(row=5), "other rows"),
        ("crops.jsonl", other_line(exemplar=0), "of two things"),
        ("crops.jsonl", other_line(sighting=GONE), "of no sighting"),
        ("exemplars.npy", lambda content: content[:-8] + bytes(8), "unit length"),
        ("exemplars.npy", lambda content: content[:-4], "no usable archive"),
        ("exemplars.npy", lambda content: content.replace(b"<f4", b"|O8"), "no usable archive"),
    ],
)
def test_an_archive_that_was_changed_is_refused(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], words: str
) -> None:
    path = tmp_path / "gallery.zip"
    write_archive(path, small())
    changed(path, name, change)
    with pytest.raises(InputError, match=words):
        read_archive(path)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.json", bytes(1 << 20))
    with pytest.raises(InputError, match="compressed"):
        read_archive(path)


def test_what_is_no_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "gallery.zip"
    with pytest.raises(InputError, match="No such file"):
        read_archive(path)
    path.write_bytes(b"SQLite format 3\0")
    with pytest.raises(InputError, match="no usable archive"):
        read_archive(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other.txt", "text")
    with pytest.raises(InputError, match="a member is missing"):
        read_archive(path)
