"""The gallery's file: SQLite, which is the truth of it."""

# M = exemplars of a block, D = embedding

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
import uuid
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from reidge.edge.cipher import Cipher, cipher_of
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.folder import make_own_folder, open_own
from reidge.edge.migrations import META, SCHEMA_VERSION, migrate, schema_of, transaction
from reidge.edge.records import Identity, SightingRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from reidge.edge.records import Statement

IN_MEMORY = ":memory:"
BLOCK = 4096
"""Rows that are read at a time."""
SEALED = (
    ("exemplars", "exemplar_id", "embedding"),
    ("sightings", "sighting_id", "embedding"),
    ("crops", "crop_id", "image"),
)
"""Tables, keys and columns of what a secret encrypts."""
COUNTED = ("identities", "exemplars", "sightings")
UNFIT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""What says that a change will never fit, however often it is tried."""
PAGE_SIZE = 8192
"""Bytes. Three embeddings of 512 numbers fit; SQLite's usual 4096 hold one, and half of the file would be empty."""
BUSY_SECONDS = 10.0
"""For another process to let go of the file."""
CLAIM_TRIES = 5
CLAIM_EVERY = 0.01
"""Seconds. Who only looks whether the gallery is in use holds its lock for some microseconds."""
JOURNAL_SECONDS = 2.0
"""For those who read to come to an end, so that the journal can be emptied."""

log = logging.getLogger(__name__)


class GalleryInUse(ReidgeError):
    """Another process writes to the gallery."""


class NoGallery(InputError):
    """There is no gallery yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a gallery's file says of itself before anything is read of it."""

    encoder_hash: str
    embedding_dim: int
    encrypted: bool
    current: bool
    """Whether its schema is the one that this reidge writes."""


def read_label(path: Path) -> Label:
    """Read whose embeddings a file holds; needs neither secret nor lock.

    Raises:
        NoGallery: There is no such file, or nothing is in it.
        InputError: It is no gallery.
        ReidgeError: It cannot be read at present.
    """
    missing = NoGallery(f"there is no gallery {path} yet. It is made by: reidge run, or reidge gallery enrol")
    try:
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            raise missing
        with closing(connect_to_read(path)) as db:
            if schema_of(db, path) == 0:
                raise missing
            found = dict(db.execute("SELECT key, value FROM meta"))
            return Label(
                encoder_hash=found["encoder"],
                embedding_dim=int(found["embedding_dim"]),
                encrypted="cipher" in found,
                current=found.get("schema") == str(SCHEMA_VERSION),
            )
    except InputError:
        raise
    except (sqlite3.OperationalError, OSError) as error:
        raise unusable(path, error, "read") from error
    except (sqlite3.Error, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a usable gallery ({error}). Give another path in storage.gallery.") from error


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a gallery's file beside whoever writes it.

    On a disk that is full or read-only SQLite cannot make the files that it reads a journal with; where no journal is
    left, the file alone says everything.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        db.close()
        journal = path.with_name(f"{path.name}-wal")
        is_left = journal.exists() and journal.stat().st_size > 0
        if not isinstance(error, sqlite3.OperationalError) or "locked" in str(error) or is_left or not path.is_file():
            raise
        alone = f"{path.absolute().as_uri()}?immutable=1"
        return sqlite3.connect(alone, isolation_level=None, check_same_thread=False, uri=True)
    return db


def unusable(path: Path, error: Exception, done: str) -> ReidgeError:
    """What to say when the disk does not let a gallery be read or written."""
    why = str(error)
    with suppress(OSError):
        disk = os.statvfs(path.parent)
        if disk.f_bavail * disk.f_frsize < 2 * PAGE_SIZE:
            why = f"the disk is full ({error})"
    return ReidgeError(
        f"the gallery {path} cannot be {done}: {why}. Check the folder, its permissions and the free space."
    )


def _uid_of(db: sqlite3.Connection) -> str | None:
    """By which a gallery is known from any other, wherever it lies; None where it has none yet."""
    row = db.execute("SELECT value FROM meta WHERE key = 'uid'").fetchone()
    return None if row is None else str(row[0])


def _give_uid(db: sqlite3.Connection) -> str:
    uid = uuid.uuid4().hex
    db.execute("INSERT INTO meta VALUES ('uid', ?)", (uid,))
    return uid


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemplarBlock:
    """Exemplars as columns."""

    exemplar_ids_M: NDArray[np.int64]
    global_ids_M: NDArray[np.int64]
    sighting_ids_M: NDArray[np.int64]
    """0 for none."""
    captured_at_M: NDArray[np.float64]
    quality_M: NDArray[np.float32]
    enrolled_M: NDArray[np.bool_]
    embeddings_MD: NDArray[np.float32]


class Store:
    """One SQLite file in WAL mode; other processes may read it meanwhile, and none may write.

    Any thread may call it. Reading has a connection of its own, so it waits for no write.

    Args:
        path: The file; `":memory:"` is gone when it is closed.
        encoder_hash: Identity of the embedding space.
        embedding_dim: Length of an embedding.
        secret: Embeddings and pictures are encrypted with a key made from it; None leaves them as they are.
        shared: Only read, beside a process that may write.

    Raises:
        InputError: The file is no gallery, belongs to another encoder or a newer reidge, or does not go together with
            the secret.
        ReidgeError: The file cannot be opened or written, or another process writes to it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        encoder_hash: str,
        embedding_dim: int,
        secret: str | None = None,
        shared: bool = False,
    ) -> None:
        self.path = Path(path)
        self.embedding_dim = embedding_dim
        self._in_memory = str(path) == IN_MEMORY
        self._encoder_hash = encoder_hash
        self._secret = None if self._in_memory else secret
        self._cipher: Cipher | None = None
        self._uid: str | None = None
        self.opened = 1
        """How often the file was opened; whoever has it open too follows."""
        self._using, self._looking = threading.RLock(), threading.RLock()
        self._shared = shared
        self._lock_file = None if self._in_memory or shared else self._claim()
        try:
            self._db, self._reader = self._open()
        except BaseException:
            if self._lock_file is not None:
                self._lock_file.close()
            raise
        if self._lock_file is not None:
            with suppress(ReidgeError):  # who was erased just before a kill is still in the journal
                self.flush_journal()

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    def _claim(self) -> IO[str]:
        """Keep other processes from writing, by a lock on a file beside; it falls with the process."""
        try:
            make_own_folder(self.path.parent)
            lock_file = open_own(self._lock_path, "a")
        except OSError as error:
            raise ReidgeError(
                f"the gallery {self.path} cannot be opened: {error.strerror or error}. "
                "Check the folder, its permissions and the free space."
            ) from error
        for left in reversed(range(CLAIM_TRIES)):
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if left:
                    time.sleep(CLAIM_EVERY)
                    continue
                lock_file.close()
                raise GalleryInUse(
                    f"the gallery {self.path} is in use by another reidge. Stop it, or give each its own "
                    "storage.gallery."
                ) from error
            except OSError:  # a file system without locks
                break
        return lock_file

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Connections to write and to read; one in memory is both."""
        file = self.path.resolve()  # a link to where the gallery is to be stays, whatever comes of it
        made = self._uid is None and not self._in_memory and not self._shared and not file.exists()
        try:
            db = self._connect()
        except BaseException:
            if made:  # nothing is in it, and nothing but confusion would come of it
                with suppress(OSError):
                    file.unlink()
            raise
        if self._in_memory:
            return db, db
        try:
            reader = self._connect()
        except BaseException:
            db.close()
            raise
        return db, reader

    def _connect(self) -> sqlite3.Connection:
        if self._uid is None and not self._in_memory and not self._shared:
            # Only a file that is not there: to open and close one that SQLite has open would drop the locks of this
            # whole process on it, and whoever closes it next would take the journal for nobody's and delete it.
            with suppress(OSError):  # what is wrong SQLite says itself; its journal gets the mode of the file
                os.close(os.open(self.path.resolve(), os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            if self._shared:
                db = connect_to_read(self.path)
            else:
                # A file that went with its disk is not made anew: the changes that wait would find nobody in it.
                there = IN_MEMORY if self._in_memory else f"{self.path.absolute().as_uri()}?mode=rw"
                db = sqlite3.connect(
                    there, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False, uri=True
                )
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        try:
            self._prepare(db)
        except sqlite3.OperationalError as error:
            db.close()
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            db.close()
            raise self._damaged(error) from error
        except BaseException:
            db.close()
            raise
        return db

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self.path} is not a usable gallery ({error}). Give another path in storage.gallery.")

    def _unusable(self, error: sqlite3.Error) -> ReidgeError:
        return unusable(self.path, error, "read" if self._shared else "written")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Tell of pages that are damaged: opening a file does not look at them."""
        try:
            with self._looking:
                yield self._reader
        except sqlite3.ProgrammingError as error:  # of a connection that is closed
            raise ReidgeError(
                f"the gallery {self.path} cannot be read at present: it could not be opened again. Try again later."
            ) from error
        except sqlite3.OperationalError as error:
            raise unusable(self.path, error, "read") from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:  # the last two: of an embedding's bytes
            raise self._damaged(error) from error

    def _prepare(self, db: sqlite3.Connection) -> None:
        schema = schema_of(db, self.path)
        if self._uid is not None and (schema == 0 or _uid_of(db) != self._uid):
            raise ReidgeError(
                f"{self.path} is not the gallery that was there at the start: its disk is gone, or another file took "
                "its place. Bring that disk back, or start reidge again to go on with this file."
            )
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")  # of a new file; others keep theirs
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA temp_store = MEMORY")  # no embedding in any file that is not the gallery's
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")  # an erased person's embedding is overwritten, not just unlinked
        if self._shared:
            db.execute("PRAGMA query_only = ON")
            if schema != SCHEMA_VERSION:
                raise InputError(f"{self.path} has gallery schema {schema}; it is brought up to date by: reidge run")
        if schema == 0:
            meta = {"encoder": self._encoder_hash, "embedding_dim": str(self.embedding_dim)}
            if self._secret is not None:
                meta["cipher"] = Cipher.make(self._secret).header
            with transaction(db):
                db.execute(META)
                db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", meta.items())
        (found,) = db.execute("SELECT value FROM meta WHERE key = 'encoder'").fetchone() or ("",)
        if found != self._encoder_hash:
            raise InputError(
                f"{self.path} holds embeddings of another encoder ({found[:12]}..., the bundle has "
                f"{self._encoder_hash[:12]}...). Embed the pictures that it keeps anew: reidge gallery reembed "
                "SITE.yaml; or start a second gallery beside it, in storage.gallery."
            )
        if self._cipher is None:  # a key takes its time, and is the same for every connection
            header = db.execute("SELECT value FROM meta WHERE key = 'cipher'").fetchone()
            self._cipher = cipher_of(header and header[0], self._secret, path=self.path)
        if not self._shared:
            migrate(db, self.path)
            self._uid = _uid_of(db) or _give_uid(db)

    def reopen(self) -> None:
        """Open the same file anew: what went wrong with a disk may stay with the files that were open then.

        Nothing can be read or written until that succeeds.

        Raises:
            ReidgeError: It cannot be opened yet, or is gone, or another gallery is in its place, or another process
                writes to it.
        """
        with self._using, self._looking:  # the old ones first: SQLite would share their journal's index with the new
            self._close_both()
            self._db, self._reader = self._open()
            try:
                self._claim_again()
            except BaseException:
                self._close_both()
                raise
            self.opened += 1

    def _claim_again(self) -> None:
        """Keep other processes from writing to a file that came back with its disk: its lock is another one then."""
        if self._lock_file is None:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._lock_file.fileno()), self._lock_path.stat()):
                return
        before, self._lock_file = self._lock_file, self._claim()
        before.close()

    def _close_both(self) -> None:
        for db in (self._reader, self._db):
            with suppress(sqlite3.Error):
                db.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._using, self._looking:
            self._reader.close()
            self._db.close()
            if self._lock_file is not None:
                self._lock_file.close()

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Ask the file.

        Raises:
            InputError: The file is damaged.
            ReidgeError: It cannot be read at present.
        """
        with self._reading() as db:
            return db.execute(sql, values).fetchall()

    def exemplars(self) -> Iterator[ExemplarBlock]:
        """Read all exemplars, oldest first.

        Raises:
            InputError: The file is damaged.
        """
        with self._reading() as db:
            cursor = db.execute(
                "SELECT exemplar_id, global_id, coalesce(sighting_id, 0), captured_at, quality, enrolled, embedding "
                "FROM exemplars ORDER BY 1"
            )
            while rows := cursor.fetchmany(BLOCK):
                numbers, global_ids, sighting_ids, captured_at, quality, enrolled, blobs = zip(*rows, strict=True)
                yield ExemplarBlock(
                    exemplar_ids_M=np.array(numbers, dtype=np.int64),
                    global_ids_M=np.array(global_ids, dtype=np.int64),
                    sighting_ids_M=np.array(sighting_ids, dtype=np.int64),
                    captured_at_M=np.array(captured_at, dtype=np.float64),
                    quality_M=np.array(quality, dtype=np.float32),
                    enrolled_M=np.array(enrolled, dtype=np.bool_),
                    embeddings_MD=self._embeddings(blobs),
                )

    def identities(self) -> list[Identity]:
        """Read all identities, ascending.

        Raises:
            InputError: The file is damaged.
        """
        rows = self.read("SELECT global_id, created_at, last_seen, name, uid FROM identities ORDER BY 1")
        return [Identity(global_id=g, created_at=c, last_seen=s, name=n, uid=u) for g, c, s, n, u in rows]

    def sightings(self, where: str, values: Sequence[object] = ()) -> list[SightingRow]:
        """Read sightings for which a condition holds, oldest first.

        Raises:
            InputError: The file is damaged.
        """
        rows = self.read(
            "SELECT sighting_id, uid, camid, track_id, started_at, ended_at, global_id, similarity, pictures, "
            f"embedding FROM sightings WHERE {where} ORDER BY ended_at, sighting_id",
            values,
        )
        with self._reading():
            return [
                SightingRow(
                    sighting_id=row[0],
                    uid=row[1],
                    camid=row[2],
                    track_id=row[3],
                    started_at=row[4],
                    ended_at=row[5],
                    global_id=row[6],
                    similarity=row[7],
                    pictures=row[8],
                    embedding_D=None if row[9] is None else self._embeddings(row[9:])[0],
                )
                for row in rows
            ]

    def last_numbers(self) -> dict[str, int]:
        """The largest number ever given, of each table that has numbers.

        Raises:
            InputError: The file is damaged.
        """
        found = dict(self.read("SELECT name, seq FROM sqlite_sequence"))
        return {table: found.get(table, 0) for table in COUNTED}

    def write(self, statements: Sequence[Statement]) -> None:
        """Change the file: all of it or nothing.

        Raises:
            ReidgeError: The disk is full or read-only, or another process holds the file.
        """
        try:
            with self._using:
                try:
                    with transaction(self._db):
                        self._run(statements)
                except UNFIT:
                    with transaction(self._db):
                        self._run_those_that_fit(statements)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _run(self, statements: Sequence[Statement]) -> None:
        for sql, group in groupby(statements, key=lambda statement: statement.sql):
            self._db.executemany(sql, (self._row(statement) for statement in group))

    def _run_those_that_fit(self, statements: Sequence[Statement]) -> None:
        """Leave out what contradicts the file: it would hold up all that comes after it for ever."""
        for statement in statements:
            try:
                self._db.execute(statement.sql, self._row(statement))
            except UNFIT as error:
                what = " ".join(statement.sql.split()[:3])
                log.error("a change of %s contradicts it and is left out (%s ...: %s)", self.path, what, error)

    def _row(self, statement: Statement) -> tuple[object, ...]:
        return tuple(self._value(value) for value in statement.values)

    def _value(self, value: object) -> object:
        if isinstance(value, np.ndarray):
            return self._seal(value)
        return value.item() if isinstance(value, np.generic) else value  # SQLite knows Python's numbers only

    def _seal(self, array: NDArray[Any]) -> bytes:
        """An embedding or a picture as the file keeps it."""
        plain = (array.astype("<f4") if array.dtype.kind == "f" else array).tobytes()
        return plain if self._cipher is None else self._cipher.seal(plain)

    def _unseal(self, blob: bytes) -> bytes:
        return blob if self._cipher is None else self._cipher.open(blob)

    def _embeddings(self, blobs: Sequence[bytes]) -> NDArray[np.float32]:
        """Embeddings `(M, D)` from as many blobs."""
        plain = [self._unseal(blob) for blob in blobs]
        if any(len(blob) != 4 * self.embedding_dim for blob in plain):
            raise ValueError("an embedding of another length")
        found_MD = np.frombuffer(b"".join(plain), dtype="<f4").reshape(len(plain), self.embedding_dim)
        return found_MD.astype(np.float32, copy=False)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read inside be of one moment, whatever is written meanwhile."""
        with self._looking:
            with self._reading() as db:
                db.execute("BEGIN")
            try:
                yield
            finally:
                if self._reader.in_transaction:  # a damaged page ends it too
                    self._reader.execute("ROLLBACK")

    def images(self, where: str, values: Sequence[object] = ()) -> list[tuple[int | None, int | None, bytes]]:
        """Read pictures for which a condition holds: sighting_id or exemplar_id, and the encoded image.

        Raises:
            InputError: The file is damaged.
        """
        rows = self.read(f"SELECT sighting_id, exemplar_id, image FROM crops WHERE {where} ORDER BY crop_id", values)
        with self._reading():
            return [(sighting_id, exemplar_id, self._unseal(image)) for sighting_id, exemplar_id, image in rows]

    def seal_text(self, text: str) -> str:
        """A text as it may stand in the file."""
        return text if self._cipher is None else self._cipher.seal(text.encode()).hex()

    def unseal_text(self, text: str) -> str:
        """What `seal_text` was given.

        Raises:
            ValueError: It was sealed with another key, or not at all.
        """
        return text if self._cipher is None else self._cipher.open(bytes.fromhex(text)).decode()

    def reseal(self, secret: str | None) -> int:
        """Encrypt everything anew with another secret, or with none: all of it or nothing.

        Returns:
            How many embeddings and pictures were rewritten.

        Raises:
            ReidgeError: The disk is full or read-only, or another process reads the file.
            InputError: The file is damaged.
        """
        cipher = None if secret is None else Cipher.make(secret)
        count = 0
        try:
            with self._using, self._reading() as reader, transaction(self._db):
                for table, key, column in SEALED:
                    for number, blob in reader.execute(f"SELECT {key}, {column} FROM {table} WHERE {column} NOT NULL"):
                        plain = self._unseal(blob)
                        sealed = plain if cipher is None else cipher.seal(plain)
                        self._db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (sealed, number))
                        count += 1
                self._db.execute("DELETE FROM requests")
                self._db.execute("DELETE FROM meta WHERE key = 'cipher'")
                if cipher is not None:
                    self._db.execute("INSERT INTO meta VALUES ('cipher', ?)", (cipher.header,))
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        self._secret, self._cipher = secret, cipher
        self.flush_journal()
        return count

    def flush_journal(self, seconds: float | None = None) -> None:
        """Write the journal back and empty it, so that nothing erased stays in it.

        Args:
            seconds: To wait for those who read, and nothing is written meanwhile; None: `JOURNAL_SECONDS`.

        Raises:
            ReidgeError: Another process reads the file and does not come to an end, or the disk fails.
        """
        try:
            with self._using:
                seconds = JOURNAL_SECONDS if seconds is None else seconds
                self._db.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")
                try:
                    (busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    self._db.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        if busy:
            raise ReidgeError(
                f"what was erased is still in the journal {self.path}-wal, because another process reads the gallery. "
                "End that one; the journal is emptied at the next erasure, or when reidge stops."
            )
