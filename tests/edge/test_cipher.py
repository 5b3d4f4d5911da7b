from __future__ import annotations

import json

import pytest

from reidge.edge import cipher as module
from reidge.edge.cipher import CHECK, Cipher, cipher_of
from reidge.edge.errors import InputError

pytest.importorskip("cryptography")


@pytest.fixture(autouse=True)
def cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCRYPT_N", 16)  # what makes guessing costly makes tests slow


def test_what_is_sealed_opens_again_and_shows_nothing() -> None:
    cipher = Cipher.make("correct horse")
    sealed = cipher.seal(b"an embedding of somebody")
    assert b"embedding" not in sealed
    assert cipher.open(sealed) == b"an embedding of somebody"


def test_the_same_piece_sealed_twice_looks_different() -> None:
    cipher = Cipher.make("correct horse")
    assert cipher.seal(b"the same") != cipher.seal(b"the same")


def test_a_piece_that_was_changed_does_not_open() -> None:
    cipher = Cipher.make("correct horse")
    for sealed in (b"", b"short", cipher.seal(b"text")[:-1], cipher.seal(b"text")[:-1] + b"\0\0"):
        with pytest.raises(ValueError, match=r"not open|Nonce"):
            cipher.open(sealed)


def test_the_header_and_the_secret_make_the_key_again() -> None:
    first = Cipher.make("correct horse")
    again = Cipher.from_header(first.header, "correct horse", path="gallery.sqlite")
    assert again.open(first.seal(b"text")) == b"text"
    assert "correct" not in first.header


def test_two_files_of_one_secret_have_two_keys() -> None:
    with pytest.raises(ValueError, match="not open"):
        Cipher.make("correct horse").open(Cipher.make("correct horse").seal(b"text"))


def test_a_wrong_secret_is_one_line_without_it() -> None:
    header = Cipher.make("correct horse").header
    with pytest.raises(InputError, match=r"^gallery\.sqlite was encrypted with another secret\. Give .*") as caught:
        Cipher.from_header(header, "wrong horse", path="gallery.sqlite")
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"kind": "rot13"}, {"kdf": "md5"}, {"salt": "xyz"}, {"n": "many"}, {"n": 1 << 40}, {"p": 1000}, {"check": 1}],
)
def test_a_header_of_another_kind_is_refused(change: dict[str, object]) -> None:
    header = json.loads(Cipher.make("correct horse").header) | change
    with pytest.raises(InputError, match="does not know"):
        Cipher.from_header(json.dumps(header), "correct horse", path="gallery.sqlite")


def test_a_header_that_is_no_json_is_refused() -> None:
    for header in ("", "[]", "{}", "nonsense"):
        with pytest.raises(InputError, match="does not know"):
            Cipher.from_header(header, "secret", path="gallery.sqlite")


def test_secret_and_file_must_go_together() -> None:
    header = Cipher.make("correct horse").header
    assert cipher_of(None, None, path="g") is None
    cipher = cipher_of(header, "correct horse", path="g")
    assert cipher is not None
    assert cipher.open(cipher.seal(CHECK)) == CHECK
    with pytest.raises(InputError, match=r"is encrypted\. Give the secret"):
        cipher_of(header, None, path="g")
    with pytest.raises(InputError, match=r"not encrypted, and storage\.secret is set"):
        cipher_of(None, "correct horse", path="g")
