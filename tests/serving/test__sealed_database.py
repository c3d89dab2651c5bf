"""Every altered bit of the file is found, and a killed process leaves a file that fits its seal."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security import Key, KeyRing, TamperedError, WrongKeyError
from lightning_privacy.serving._sealed_database import SealedDatabase

KEY = Key(bytes(range(32)), key_id="one")
SCHEMA = "CREATE TABLE counts (id INTEGER PRIMARY KEY, n INTEGER NOT NULL); INSERT INTO counts VALUES (1, 0)"


def _add(database, amount=1):
    with database.transaction() as connection:
        connection.execute("UPDATE counts SET n = n + ? WHERE id = 1", (amount,))


def _count(path, key=KEY):
    with SealedDatabase(path, key, schema=SCHEMA, create=False).transaction(write=False) as connection:
        return connection.execute("SELECT n FROM counts").fetchone()[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "counts.db"


@pytest.fixture
def database(path):
    return SealedDatabase(path, KEY, schema=SCHEMA)


def test_what_was_written_is_there(path, database):
    for _ in range(5):
        _add(database)
    assert _count(path) == 5
    assert [each.name for each in path.parent.iterdir()] == ["counts.db"]
    assert path.stat().st_mode & 0o077 == 0


def test_it_grows_by_pages(path, database):
    for number in range(2, 40):
        with database.transaction() as connection:
            connection.execute("INSERT INTO counts VALUES (?, ?)", (number, number))
            connection.execute("CREATE TABLE IF NOT EXISTS bulk (content BLOB)")
            connection.execute("INSERT INTO bulk VALUES (?)", (bytes([number]) * 3000,))
    assert path.stat().st_size > 100_000
    assert _count(path) == 0


def test_an_exception_changes_nothing(path, database):
    before = path.read_bytes()
    with contextlib.suppress(KeyError), database.transaction() as connection:
        connection.execute("UPDATE counts SET n = 7")
        raise KeyError
    with database.transaction(write=False) as connection:
        connection.execute("UPDATE counts SET n = 8")  # never committed
    assert path.read_bytes() == before


def test_each_of_1000_flipped_bits_is_found(path, database):
    for _ in range(3):
        _add(database)
    whole = path.read_bytes()
    bits = random.Random(0).sample(range(8 * len(whole)), 1000)
    found = 0
    for bit in bits:
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises((TamperedError, WrongKeyError)):
            _count(path)
        found += 1
    path.write_bytes(whole)
    assert found == 1000
    assert _count(path) == 3


def test_a_flip_is_found_by_a_process_that_has_the_file_open(path, database):
    _add(database)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(TamperedError, match="altered"):
        _add(database)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-4096],
        lambda content: content + bytes(4096),
        lambda content: content + b"\0",
        lambda content: bytes(len(content)),
        lambda content: b"SQLite format 3\0" + bytes(5000),
    ],
    ids=["empty", "cut", "page added", "byte added", "zeros", "header only"],
)
def test_a_file_of_another_length_or_content_is_found(path, database, change):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TamperedError):
        _count(path)


def test_a_change_through_sqlite_is_found(path, database):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE counts SET n = -100")
        connection.commit()
    with pytest.raises(TamperedError, match="seal does not fit"):
        _count(path)


def test_another_key_is_refused(path, database):
    with pytest.raises(WrongKeyError):
        _count(path, Key(bytes(32), key_id="two"))
    with pytest.raises(TamperedError):
        _count(path, Key(bytes(32), key_id="one"))  # the same name, another secret


def test_a_new_key_takes_over(path, database):
    new = Key(bytes(32), key_id="two")
    _add(SealedDatabase(path, KeyRing(new, KEY), schema=SCHEMA))
    assert _count(path, new) == 1


def test_a_missing_file_is_made_only_if_it_may_be(path, tmp_path):
    with pytest.raises(ConfigurationError, match=r"counts\.db is not there"):
        SealedDatabase(path, KEY, schema=SCHEMA, create=False)
    (tmp_path / "counts.db-journal").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="somebody moved or removed it"):
        SealedDatabase(path, KEY, schema=SCHEMA)
    with pytest.raises(OSError, match="missing"):
        SealedDatabase(tmp_path / "missing" / "counts.db", KEY, schema=SCHEMA)


_WRITER = """
from lightning_privacy.security.keys import Key
from lightning_privacy.serving._sealed_database import SealedDatabase
database = SealedDatabase(sys.argv[1], Key(bytes(range(32)), key_id="one"), schema="")
while True:
    with database.transaction() as connection:
        connection.execute("UPDATE counts SET n = n + 1 WHERE id = 1")
        n = connection.execute("SELECT n FROM counts").fetchone()[0]
    print(n, flush=True)
"""


def test_a_killed_writer_leaves_what_it_told_or_one_more(path, database, light_imports):
    source = random.Random(1)
    last = 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", light_imports + _WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            for _ in range(source.randrange(1, 12)):
                last = int(process.stdout.readline())
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(source.random() * 0.03)  # somewhere inside of a commit
            process.send_signal(signal.SIGKILL)
            told = process.stdout.read().split()
        last = int(told[-1]) if told else last
        found = _count(path)
        assert last <= found <= last + 1
        last = found
