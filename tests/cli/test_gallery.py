from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from reidge.cli.gallery import ACTIONS
from reidge.cli.main import main
from reidge.edge import access, cipher, postbox
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import SightingRow
from reidge.edge.retention import DAY
from tests.servers.running import Running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

RED, GREEN, BLUE, WHITE = (30, 30, 220), (30, 200, 30), (220, 30, 30), (240, 240, 240)


def dressed(
    top: tuple[int, int, int], legs: tuple[int, int, int], *, seed: int = 0, height: int = 96
) -> NDArray[np.uint8]:
    """Somebody, as a crop; each seed is another picture of the same clothes."""
    image_HW3 = np.empty((height, height // 2, 3), dtype=np.float64)
    image_HW3[: height // 2], image_HW3[height // 2 :] = top, legs
    noise_HW3 = np.random.default_rng(seed).normal(0, 6, image_HW3.shape)
    return np.clip(image_HW3 + noise_HW3, 0, 255).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    people = {
        "anna1": dressed(RED, WHITE, seed=1),
        "anna2": dressed(RED, WHITE, seed=2),
        "anna3": dressed(RED, WHITE, seed=3),
        "bob": dressed(BLUE, GREEN, seed=4),
    }
    for name, image in people.items():
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return {name: folder / f"{name}.png" for name in people}


@pytest.fixture
def site(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A site file whose cameras need a password that is not there: the gallery does not."""
    path = tmp_path / "site.yaml"
    settings = {
        "bundle": str(tiny_bundle),
        "cameras": [{"name": "gate", "source": "rtsp://viewer:${NO_SUCH_PASSWORD}@192.0.2.1/1"}],
        "encoder": {"backend": "onnxruntime", "threads": 1},
        "storage": {"gallery": "state/gallery.sqlite"},
    }
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
def ask(site: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs an action with `--json`."""

    def asked(action: str, *arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["gallery", action, str(site), *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return asked


def refused(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """What an action says when it fails, in one line."""
    capsys.readouterr()
    assert main(["gallery", *map(str, arguments)]) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def stored(state: Path, sql: str) -> list[Any]:
    with sqlite3.connect(state / "gallery.sqlite") as db:
        rows = db.execute(sql).fetchall()
    db.close()
    return rows


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_whoever_is_enrolled_is_found_by_another_picture_and_a_stranger_is_not(
    ask: Callable[..., dict[str, Any]], pictures: dict[str, Path]
) -> None:
    enrolled = ask("enrol", pictures["anna1"], pictures["anna2"], "--name", "Anna")
    assert (enrolled["global_id"], enrolled["created"], enrolled["pictures"]) == (1, True, 2)
    assert all(one["likeness"] > 0.99 and one["flaws"] == [] for one in enrolled["quality"])
    found = ask("search", pictures["anna3"])["found"]
    assert [(one["global_id"], one["name"], one["same"]) for one in found] == [(1, "Anna", "yes")]
    assert [one["same"] for one in ask("search", pictures["bob"])["found"]] == ["no"]


def test_what_speaks_against_pictures_is_said(
    ask: Callable[..., dict[str, Any]], pictures: dict[str, Path], tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "tiny.png"), dressed(RED, WHITE, height=20))
    cv2.imwrite(str(tmp_path / "wide.png"), np.hstack([dressed(RED, WHITE)] * 3))
    enrolled = ask("enrol", tmp_path / "tiny.png", pictures["bob"], tmp_path / "wide.png", pictures["anna1"], "--force")
    tiny, bob, wide, anna = (one["flaws"] for one in enrolled["quality"])
    assert tiny == ["20 pixels high, 48 are asked for"]
    assert [flaw.split("(")[0] for flaw in bob] == ["unlike the others "]
    assert any("--whole" in flaw for flaw in wide)
    assert anna == []


def test_pictures_of_somebody_known_can_be_added_and_double_enrolment_is_noticed(
    ask: Callable[..., dict[str, Any]], pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["anna1"], "--name", "Anna")
    again = ask("enrol", pictures["anna2"])
    assert [one["global_id"] for one in again["alike"]] == [1]
    assert ask("enrol", pictures["anna3"], "--identity", 1)["created"] is False
    assert [(pair["global_ids"]) for pair in ask("duplicates")["duplicates"]] == [[1, 2]]
    ask("merge", 1, 2)
    assert ask("duplicates")["duplicates"] == []
    assert ask("unmerge", 2)["split_from"] == 1
    assert ask("duplicates")["duplicates"] == []  # somebody took them apart
    shown = ask("show", 1)
    assert (shown["person"]["name"], shown["person"]["exemplars"], shown["person"]["enrolled"]) == ("Anna", 2, 2)
    assert [(step["action"], step["undone"]) for step in shown["history"]] == [("merge", True)]


def passed(
    site: Path, seed: int, *, days_ago: float = 0.0, known: bool = True, crop: bytes | None = None
) -> tuple[int | None, int]:
    """Somebody came by while the site ran; their number, and that of the sighting."""
    at = time.time() - days_ago * DAY
    embedding_D = np.random.default_rng(seed).standard_normal(24).astype(np.float32)
    embedding_D /= np.linalg.norm(embedding_D)
    config = GalleryConfig(min_similarity=0.9)
    path = site.parent / "state" / "gallery.sqlite"
    with sqlite3.connect(path) as db:
        (encoder,) = db.execute("SELECT value FROM meta WHERE key = 'encoder'").fetchone()
    db.close()
    with Gallery(path, encoder_hash=encoder, embedding_dim=24, config=config) as gallery:
        who = gallery.enrol(embedding_D, captured_at=at) if known and crop is None else None
        row = SightingRow(
            camid="gate", track_id=seed, started_at=at - 3, ended_at=at, global_id=who, pictures=4,
            embedding_D=embedding_D,
        )  # fmt: skip
        sighting_id = gallery.record(row, crop=crop)
        if crop is not None:
            who = gallery.enrol(embedding_D, captured_at=at, sighting_id=sighting_id)
        return who, sighting_id


def test_sightings_can_be_split_off_and_undecided_ones_listed_and_erased(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["bob"])
    first, one = passed(site, 1)
    second, other = passed(site, 2)
    ask("merge", first, second)
    assert {sighting["sighting_id"] for sighting in ask("show", first)["sightings"]} == {one, other}
    made = ask("split", first, "--sightings", other)
    assert ask("show", made["global_id"])["sightings"][0]["sighting_id"] == other
    _, stranger = passed(site, 3, known=False)
    assert [sighting["sighting_id"] for sighting in ask("list", "--undecided")["sightings"]] == [stranger]
    assert ask("erase", "--sightings", stranger)["sightings"] == [stranger]
    assert ask("list", "--undecided")["sightings"] == []


def test_whoever_is_erased_is_in_no_file_and_comes_back_as_somebody_new(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["anna1"], "--name", "Anna Arendt")
    ask("enrol", pictures["bob"])
    state = site.parent / "state"
    assert b"Anna Arendt" in content(state)
    assert ask("erase", 1) == {"erased": [1], "sightings": []}
    assert b"Arendt" not in content(state)
    assert [one["global_id"] for one in ask("list")["identities"]] == [2]
    assert ask("stats")["erased"] == 1
    assert ask("enrol", pictures["anna1"])["global_id"] == 3


def test_a_request_that_nobody_waits_for_any_more_is_gone_with_the_next_change(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["bob"])
    state = site.parent / "state"
    stored(state, "INSERT INTO requests (at, action, arguments) VALUES (7.0, 'enrol', 'looks of somebody')")
    ask("rename", 1, "Bob")
    assert b"looks of somebody" not in content(state)


def test_a_change_waits_for_another_command_to_let_go_of_the_gallery(
    site: Path, ask: Callable[..., dict[str, Any]], pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = ask("enrol", pictures["anna1"])["global_id"]
    (encoder,) = stored(site.parent / "state", "SELECT value FROM meta WHERE key = 'encoder'")[0]
    path, config = site.parent / "state" / "gallery.sqlite", GalleryConfig(min_similarity=0.9)
    monkeypatch.setattr(postbox, "ANSWER_SECONDS", 0.5)
    command = Gallery(path, encoder_hash=encoder, embedding_dim=24, config=config)
    timer = threading.Timer(0.2, command.close)
    timer.start()
    assert ask("rename", anna, "Anna")["name"] == "Anna"
    timer.join()
    assert stored(site.parent / "state", "SELECT name FROM identities") == [("Anna",)]


def test_who_was_not_seen_for_long_is_forgotten_on_demand(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["bob"])
    old, _ = passed(site, 1, days_ago=31)
    new, _ = passed(site, 2, days_ago=29)
    assert old is not None
    assert ask("retain") == {"identities": 1, "sightings": 1}
    assert {one["global_id"] for one in ask("list")["identities"]} == {1, new}


def test_a_backup_brings_back_what_is_missing_but_nobody_who_was_erased(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    ask("enrol", pictures["anna1"], "--name", "Anna")
    ask("enrol", pictures["bob"], "--name", "Bob")
    known, _ = passed(site, 1)
    backup = tmp_path / "backup.zip"
    assert ask("export", "--output", backup)["identities"] == 3
    ask("erase", 1)
    state = site.parent / "state"
    for path in state.iterdir():
        if path.name.startswith("gallery.sqlite") and "keep" not in path.name:
            path.rename(tmp_path / path.name)
    assert ask("import", backup)["identities"] == 3  # a new box, which knows of no erasure
    for path in state.iterdir():
        path.unlink()
    for path in tmp_path.glob("gallery.sqlite*"):
        path.rename(state / path.name)
    again = ask("import", backup)
    assert (again["identities"], again["known"], again["erased_before"], again["exemplars"]) == (0, 2, 1, 0)
    assert {one["global_id"] for one in ask("list")["identities"]} == {2, known}


def test_whoever_was_erased_elsewhere_is_erased_here_too(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    ask("enrol", pictures["anna1"], "--name", "Anna Arendt")
    ask("enrol", pictures["bob"])
    state = site.parent / "state"
    copy = (state / "gallery.sqlite").read_bytes()
    ask("erase", 1)
    ask("export", "--output", tmp_path / "after.zip")
    (state / "gallery.sqlite").write_bytes(copy)
    assert ask("import", tmp_path / "after.zip")["erased_here"] == 1
    assert [one["global_id"] for one in ask("list")["identities"]] == [2]
    assert b"Arendt" not in content(state)


def test_imported_people_get_free_numbers_where_theirs_are_taken(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    ask("enrol", pictures["anna1"])
    ask("export", "--output", tmp_path / "one.zip")
    for path in (site.parent / "state").iterdir():
        path.unlink()
    ask("enrol", pictures["bob"])
    assert ask("import", tmp_path / "one.zip")["renumbered"] == {"1": 2}
    assert ask("search", pictures["anna2"])["found"][0]["global_id"] == 2


def test_a_gallery_is_encrypted_and_back_and_with_another_secret(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("cryptography")
    monkeypatch.setattr(cipher, "SCRYPT_N", 16)
    ask("enrol", pictures["anna1"])
    state = site.parent / "state"
    (plain,) = stored(state, "SELECT embedding FROM exemplars")[0]
    parts = [plain[i : i + 16] for i in range(0, len(plain) - 16, 8)]
    (tmp_path / "key").write_text("correct horse\n")
    (tmp_path / "key").chmod(0o600)
    line = refused(capsys, 2, "encrypt", site)
    assert "says no storage.secret" in line
    settings = json.loads(site.read_text())
    settings["storage"] |= {"secret_file": "key", "crops": True}
    site.write_text(json.dumps(settings))
    assert "Encrypt it with" in refused(capsys, 2, "list", site)
    assert ask("encrypt") == {"encrypted": 1}
    assert not any(part in content(state) for part in parts)
    assert ask("search", pictures["anna2"])["found"][0]["same"] == "yes"
    ask("enrol", pictures["bob"])
    assert b"JFIF" not in content(state)
    assert ask("stats")["pictures"] == 1
    assert ask("export", "--output", tmp_path / "sealed.zip")["encrypted"]
    assert not any(part in (tmp_path / "sealed.zip").read_bytes() for part in parts)
    (tmp_path / "old").write_text("correct horse")
    (tmp_path / "key").write_text("battery staple")
    line = refused(capsys, 2, "list", site)
    assert "was encrypted with another secret" in line
    assert "battery" not in line
    assert ask("encrypt", "--old-secret-file", tmp_path / "old") == {"encrypted": 3}
    assert len(ask("list")["identities"]) == 2
    assert ask("import", tmp_path / "sealed.zip", "--secret-file", tmp_path / "old")["known"] == 2
    assert "as --secret-file" in refused(capsys, 2, "import", site, tmp_path / "sealed.zip")
    assert ask("decrypt") == {"decrypted": 3}
    assert any(part in content(state) for part in parts)


def test_a_gallery_is_made_one_of_another_encoder_from_its_pictures(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ask("enrol", pictures["anna1"])
    settings = json.loads(site.read_text())
    settings["storage"]["crops"] = True
    site.write_text(json.dumps(settings))
    ask("enrol", pictures["bob"], "--name", "Bob")
    passed(site, 1, crop=cv2.imencode(".jpg", dressed(GREEN, RED))[1].tobytes())
    path = site.parent / "state" / "gallery.sqlite"
    with sqlite3.connect(path) as db:  # as if an encoder from before had made it
        db.execute("UPDATE meta SET value = ? WHERE key = 'encoder'", ("0" * 64,))
        db.execute("UPDATE exemplars SET embedding = ?", (bytes(95) + b"\x3f",))
    db.close()
    assert "another encoder" in refused(capsys, 2, "search", site, pictures["bob"])
    assert "of 1 of 3 exemplars" in refused(capsys, 2, "reembed", site)
    assert ask("reembed", "--drop") == {"exemplars": 2, "dropped": 1, "sightings": 1}
    (found, *_) = ask("search", pictures["bob"])["found"]
    assert (found["name"], found["same"]) == ("Bob", "yes")
    cv2.imwrite(str(tmp_path / "green.png"), dressed(GREEN, RED, seed=9))
    assert ask("search", tmp_path / "green.png")["found"][0]["similarity"] > 0.9
    assert "already" in refused(capsys, 2, "reembed", site)


def test_everything_that_touches_somebody_is_in_the_audit_and_no_name_is(
    ask: Callable[..., dict[str, Any]], pictures: dict[str, Path], tmp_path: Path
) -> None:
    ask("enrol", pictures["anna1"], "--name", "Anna")
    ask("search", pictures["anna2"])
    ask("rename", 1, "Hannah")
    ask("export", "--output", tmp_path / "all.zip")
    ask("import", tmp_path / "all.zip")
    ask("erase", 1)
    entries = ask("audit")["entries"]
    assert [(entry["action"], entry["subject"]) for entry in entries] == [
        ("erase", "1"),
        ("import", None),
        ("export", None),
        ("rename", "1"),
        ("search", "1"),
        ("enrol", "1"),
    ]
    assert "Anna" not in str(entries)
    assert all(entry["actor"] for entry in entries)


def test_people_read_tables(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("enrol", pictures["anna1"], "--name", "Anna")
    assert main(["gallery", "list", str(site)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["ID", "NAME"]
    assert line.split()[:2] == ["1", "Anna"]
    for action, *more in (["show", "1"], ["stats"], ["search", str(pictures["bob"])], ["audit"], ["duplicates"]):
        assert main(["gallery", action, str(site), *more]) == 0
        assert capsys.readouterr().out.strip()


def test_what_cannot_be_done_is_one_line(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert "there is no gallery" in refused(capsys, 2, "list", site)
    assert "there is no gallery" in refused(capsys, 2, "search", site, pictures["bob"])
    ask("enrol", pictures["bob"])
    (tmp_path / "no.png").write_text("no picture")
    for status, words, *arguments in (
        (2, "no identity 7", "show", site, 7),
        (2, "no identity 7", "erase", site, 7),
        (2, "nobody to erase", "erase", site),
        (2, "cannot be merged with itself", "merge", site, 1, 1),
        (2, "not a readable image", "search", site, tmp_path / "no.png"),
        (2, "what moves", "search", site, pictures["bob"], "--whole"),
        (2, "no usable archive", "import", site, tmp_path / "no.png"),
        (2, "cannot be read", "list", tmp_path / "gone.yaml"),
        (2, "ends with each run", "list", site, "--set", "storage.gallery=:memory:"),
    ):
        assert words in refused(capsys, status, *arguments)


@pytest.mark.parametrize("name", ["", "  ", "Anna ", "Anna\nArendt", "Anna\tArendt", "A" * 5000, "Ann\udcff"])
def test_a_name_that_fits_on_no_line_is_refused_in_one(
    name: str, ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ask("enrol", pictures["bob"])
    assert "the name" in refused(capsys, 2, "rename", site, 1, name)
    assert "the name" in refused(capsys, 2, "enrol", site, pictures["bob"], "--name", name)
    assert [person["name"] for person in ask("list")["identities"]] == [None]


def test_numbers_that_no_file_holds_are_refused(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("enrol", pictures["bob"])
    for arguments in (("show", site, 2**63), ("erase", site, 1, 2**70), ("list", site, "--limit", 2**64)):
        assert "too large" in refused(capsys, 2, *arguments)
    assert "See: reidge gallery list" in refused(capsys, 2, "rename", site, 2**63 - 1, "Bob")


def test_whoever_was_merged_is_said_to_be_part_of_another_one(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("enrol", pictures["anna1"])
    ask("enrol", pictures["anna2"])
    ask("merge", 1, 2)
    for arguments in (("show", site, 2), ("erase", site, 2), ("rename", site, 2, "Anna")):
        assert "2 was merged into 1" in refused(capsys, 2, *arguments)


def test_what_is_named_twice_counts_once_and_what_is_not_there_is_not_erased(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("enrol", pictures["bob"])
    _, one = passed(site, 1, known=False)
    who, other = passed(site, 2)
    _, third = passed(site, 3, known=False)
    assert who is not None
    assert "no sighting 9999" in refused(capsys, 2, "erase", site, "--sightings", one, 9999)
    assert "sighting 9999 is not of" in refused(capsys, 2, "split", site, who, "--sightings", other, 9999)
    assert ask("erase", "--sightings", one, one)["sightings"] == [one]
    ask("merge", 1, who)
    assert main(["gallery", "split", str(site), "1", "--sightings", str(other), str(other)]) == 0
    assert "made of 1 sighting of identity 1" in capsys.readouterr().out
    assert main(["gallery", "erase", str(site), "--sightings", str(third)]) == 0
    assert "0 identities, 1 single sighting." in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_failure_to_talk_about(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["bob"])
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "reidge.cli.main", "gallery", "list", str(site)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b""


def test_commands_side_by_side_wait_for_each_other(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["bob"])
    command = [sys.executable, "-m", "reidge.cli.main", "gallery"]
    started = [
        subprocess.Popen(
            [*command, "rename", str(site), "1", f"Bob {i}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for i in range(4)
    ]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert ends == [(b"", 0)] * 4
    assert len([entry for entry in ask("audit")["entries"] if entry["action"] == "rename"]) == 4


def test_nobody_is_said_to_be_a_site_who_only_holds_the_gallery(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(postbox, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(access, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(access, "TRY_SECONDS", 0.1)
    ask("enrol", pictures["bob"])
    with (site.parent / "state" / "gallery.sqlite.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another reidge holds the gallery" in refused(capsys, 1, "rename", site, 1, "Bob")
        assert "another reidge holds the gallery" in refused(capsys, 1, "decrypt", site)
    assert ask("list")["identities"][0]["name"] is None


def test_a_gallery_that_is_not_there_is_made_by_nothing_but_enrol_and_import(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ask("enrol", pictures["bob"])
    ask("export", "--output", tmp_path / "all.zip")
    (tmp_path / "empty.sqlite").touch()
    for name in ("none.sqlite", "empty.sqlite"):
        for action, *arguments in (
            ("rename", 1, "Bob"), ("erase", 1), ("merge", 1, 2), ("unmerge", 2), ("split", 1, "--sightings", 1),
            ("retain",), ("list",), ("show", 1), ("stats",), ("decrypt",), ("duplicates",), ("audit",),
            ("enrol", pictures["bob"], "--identity", 1), ("search", pictures["bob"]),
        ):  # fmt: skip
            line = refused(capsys, 2, action, site, *arguments, "--set", f"storage.gallery={name}")
            assert f"there is no gallery {tmp_path / name} yet" in line
    assert sorted(path.name for path in tmp_path.glob("*.sqlite*")) == ["empty.sqlite"]
    assert ask("import", tmp_path / "all.zip", "--set", "storage.gallery=empty.sqlite")["identities"] == 1


def test_a_file_of_another_program_is_called_that(
    site: Path, pictures: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(tmp_path / "foreign.sqlite") as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    db.close()
    for action, *arguments in (("list",), ("rename", 1, "Bob"), ("enrol", pictures["bob"]), ("retain",)):
        line = refused(capsys, 2, action, site, *arguments, "--set", "storage.gallery=foreign.sqlite")
        assert "is a database of another program" in line


def test_a_failed_import_leaves_no_file(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ask("enrol", pictures["bob"])
    with sqlite3.connect(site.parent / "state" / "gallery.sqlite") as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'encoder'", ("0" * 64,))
    db.close()
    ask("export", "--output", tmp_path / "all.zip")
    line = refused(capsys, 2, "import", site, tmp_path / "all.zip", "--set", "storage.gallery=new.sqlite")
    assert "another encoder" in line
    assert list(tmp_path.glob("new.sqlite*")) == []


def test_on_a_full_disk_it_can_be_read_who_is_there_and_a_change_says_what_is_wrong(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path]
) -> None:
    ask("enrol", pictures["bob"])

    def on_a_full_disk(action: str, *arguments: str) -> tuple[int, str, str]:
        code = (
            "import resource, sys; from reidge.cli.main import main; "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", code, "gallery", action, str(site), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    for action in ("list", "stats", "audit"):
        status, out, err = on_a_full_disk(action)
        assert (status, err) == (0, "")
        assert out
    for action, *arguments in (["rename", "1", "Bob"], ["search", str(pictures["bob"])], ["erase", "1"]):
        status, _, err = on_a_full_disk(action, *arguments)
        assert (status, len(err.splitlines())) == (1, 1), err
        assert "the free space" in err
        assert "not a usable gallery" not in err
    assert ask("list")["identities"][0]["name"] is None


def test_pictures_of_somebody_else_are_not_added_to_an_identity_unless_that_is_meant(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("enrol", pictures["anna1"])
    command = ["gallery", "enrol", str(site), str(pictures["bob"]), "--identity", "1"]
    assert main(command) == 0  # like nobody: it may be a new look of hers
    assert "unlike what was known of it (" in capsys.readouterr().out
    ask("erase", 1)
    ask("enrol", pictures["anna1"])
    ask("enrol", pictures["bob"])
    line = refused(capsys, 2, "enrol", site, pictures["bob"], "--identity", 2)
    assert "unlike identity 2 (" in line
    assert "like identity 3 (1.00)" in line
    assert ask("show", 2)["person"]["exemplars"] == 1
    ask("enrol", pictures["bob"], "--identity", 2, "--force")
    assert ask("show", 2)["person"]["exemplars"] == 2


def test_nobody_is_enrolled_by_pictures_that_show_nobody(
    ask: Callable[..., dict[str, Any]], site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((96, 48, 3), 120, dtype=np.uint8))
    cv2.imwrite(str(tmp_path / "tiny.png"), dressed(RED, WHITE, height=20))
    line = refused(capsys, 2, "enrol", site, tmp_path / "blank.png", tmp_path / "tiny.png")
    assert "blank.png: it is blank; " in line
    assert "tiny.png: 20 pixels high, 48 are asked for. " in line
    assert not (site.parent / "state").exists()
    assert ask("enrol", tmp_path / "tiny.png", "--force")["global_id"] == 1


def test_more_than_half_of_everybody_is_forgotten_by_hand_only_if_that_is_meant(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("enrol", pictures["bob"])
    for seed in (1, 2):
        passed(site, seed, days_ago=31)
    assert ask("retain", "--dry-run") == {"identities": 2, "sightings": 2, "dry_run": True}
    assert "2 of 3 identities would be forgotten" in refused(capsys, 2, "retain", site)
    assert main(["gallery", "retain", str(site), "--set", "storage.retention_days=null"]) == 0
    assert "retention is off" in capsys.readouterr().out
    assert ask("stats")["identities"] == 3
    assert ask("retain", "--yes") == {"identities": 2, "sightings": 2}


def test_a_similarity_that_none_can_be_is_refused(
    ask: Callable[..., dict[str, Any]], site: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("enrol", pictures["bob"])
    for value in ("7", "nan", "-1.5"):
        assert "between -1 and 1" in refused(capsys, 2, "duplicates", site, f"--min-similarity={value}")


def test_a_site_that_runs_is_asked_and_nobody_waits_for_it_to_end(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], pictures: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = {
        "bundle": str(tiny_bundle),
        "cameras": [
            {"name": "cam1", "source": str(walks["cam1"]), "pace": "realtime", "since": 2},
            {"name": "away", "source": "rtsp://127.0.0.1:1/never"},  # the site goes on when the recording ends
        ],
        "encoder": {"backend": "onnxruntime", "threads": 1},
        "identity": {"min_similarity": 0.8, "min_sightings": 1},
        "storage": {"gallery": "state/gallery.sqlite", "crops": True},
    }
    with Running(tmp_path / "live", settings) as running:
        site, state = running.folder / "site.yaml", running.folder / "state"

        def asked(action: str, *arguments: object) -> dict[str, Any]:
            capsys.readouterr()
            assert main(["gallery", action, str(site), *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
            found: dict[str, Any] = json.loads(capsys.readouterr().out)
            return found

        running.wait_for(lambda: running.events("identity.created"), "somebody")
        seen = running.events("identity.created")[0]["global_id"]
        assert asked("stats")["running"]
        assert seen in {one["global_id"] for one in asked("list")["identities"]}
        enrolled = asked("enrol", pictures["bob"], "--name", "Bob Dylan")["global_id"]
        assert asked("search", pictures["bob"])["found"][0]["name"] == "Bob Dylan"
        (look,) = stored(state, f"SELECT embedding FROM exemplars WHERE global_id = {enrolled}")[0]
        assert look in content(state)
        assert b"Dylan" in content(state)
        assert asked("erase", enrolled)["erased"] == [enrolled]
        left = content(state)
        assert not any(look[i : i + 12] in left for i in range(0, len(look) - 12, 4))
        assert b"Dylan" not in left
        running.wait_for(lambda: running.events("identity.erased"), "news of the erasure")
        assert "Stop it" in refused(capsys, 1, "reembed", site)
        running.stop()
    pictures_kept = stored(state, "SELECT image FROM crops JOIN sightings USING (sighting_id)")
    assert pictures_kept
    assert all(image.startswith(b"\xff\xd8") for (image,) in pictures_kept)
    assert {event["global_id"] for event in running.events("identity.erased")} == {enrolled}


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_explains_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["gallery", action, "--help"])
    assert end.value.code == 0
    assert "SITE.yaml" in capsys.readouterr().out
