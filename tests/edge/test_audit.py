from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from reidge.edge.audit import NEWEST, current_user, entries, note
from reidge.edge.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_is_noted_is_read_again_the_newest_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "gallery.sqlite", encoder_hash="a" * 64, embedding_dim=2)
    store.write([note("search", actor="ada", subject=(3, 17), pictures=2), note("erase", actor="bob", subject=(17,))])
    newest, oldest = entries(store.read(NEWEST, (10,)))
    store.close()
    assert (newest.actor, newest.action, newest.subject, newest.detail) == ("bob", "erase", "17", {})
    assert (oldest.actor, oldest.subject, oldest.detail) == ("ada", "3, 17", {"pictures": 2})
    assert oldest.at <= newest.at


def test_the_user_is_the_one_of_the_system_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "somebody else")
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert current_user() == pwd.getpwuid(os.getuid()).pw_name


def test_who_became_root_is_named_and_only_root_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "4000000000")
    for uid, expected in ((0, "root (sudo by 4000000000)"), (4_000_000_001, "4000000001")):
        monkeypatch.setattr(os, "getuid", lambda uid=uid: uid)
        assert current_user() == expected
