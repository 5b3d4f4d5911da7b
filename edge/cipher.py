"""Embeddings and pictures as nobody reads them without the secret: AES-256-GCM.

The key comes from the user's secret by scrypt (RFC 7914) with a salt of each file's own, so that one secret serves
several galleries and archives. Each piece is sealed by itself, with a random number that is never used again (NIST
SP 800-38D, 8.2.2), and a piece that was changed does not open.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

KIND = "aes-256-gcm"
KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 15, 8, 1
"""32 MiB and about a tenth of a second for each guess at the secret."""
SCRYPT_MEMORY = 256 << 20
"""Bytes that a header may ask for at most: it comes with a file that may come from anywhere."""
MOST_PASSES = 16
CHECK = b"reidge"
"""What the header seals, so that a wrong secret is known before anything is read."""
HOW_TO_GIVE = "Give the secret that it was encrypted with in storage.secret_file."


class Cipher:
    """Seals and opens pieces of one file; any thread may use it."""

    def __init__(self, secret: str, *, salt: bytes, n: int, r: int, p: int) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError as error:
            raise InputError(
                "storage.secret needs the Python package cryptography. Install it: pip install cryptography"
            ) from error
        key = hashlib.scrypt(secret.encode(), salt=salt, n=n, r=r, p=p, maxmem=SCRYPT_MEMORY, dklen=KEY_BYTES)
        self._aead = AESGCM(key)
        self._parameters = {"kind": KIND, "kdf": "scrypt", "salt": salt.hex(), "n": n, "r": r, "p": p}

    @classmethod
    def make(cls, secret: str) -> Cipher:
        """A key for a new file."""
        return cls(secret, salt=os.urandom(SALT_BYTES), n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)

    @classmethod
    def from_header(cls, header: str, secret: str, *, path: Path | str, how_to_give: str = HOW_TO_GIVE) -> Cipher:
        """The key of a file that says how its key is made.

        Args:
            header: What the file says.
            secret: Of the user.
            path: The file, for messages.
            how_to_give: What to do where the secret is another one, for messages.

        Raises:
            InputError: The secret is another one, or the header is not of this kind.
        """
        try:
            found = json.loads(header)
            if found["kind"] != KIND or found["kdf"] != "scrypt" or not 1 <= found["p"] <= MOST_PASSES:
                raise ValueError
            cipher = cls(secret, salt=bytes.fromhex(found["salt"]), n=found["n"], r=found["r"], p=found["p"])
            check = bytes.fromhex(found["check"])
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path} is encrypted in a way that this reidge does not know. Use a newer one."
            ) from error
        try:
            right = cipher.open(check) == CHECK
        except ValueError:
            right = False
        if not right:
            raise InputError(f"{path} was encrypted with another secret. {how_to_give}")
        return cipher

    @property
    def header(self) -> str:
        """What stands in the file beside the pieces: all that is needed to open them but the secret."""
        return json.dumps({**self._parameters, "check": self.seal(CHECK).hex()})

    def seal(self, plain: bytes) -> bytes:
        """Encrypt one piece; it grows by 28 bytes."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, None)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt one piece.

        Raises:
            ValueError: It was sealed with another key, or was changed.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except InvalidTag as error:
            raise ValueError("it does not open with this secret") from error


def cipher_of(header: str | None, secret: str | None, *, path: Path | str) -> Cipher | None:
    """The cipher of a file that exists; None where it is not encrypted.

    Args:
        header: What the file says of its encryption.
        secret: What the settings say.
        path: The file, for messages.

    Raises:
        InputError: Secret and file do not go together.
    """
    if header is None and secret is None:
        return None
    if header is None:
        raise InputError(
            f"{path} is not encrypted, and storage.secret is set. Encrypt it with: reidge gallery encrypt SITE.yaml"
        )
    if secret is None:
        raise InputError(f"{path} is encrypted. {HOW_TO_GIVE}")
    return Cipher.from_header(header, secret, path=path)
