"""Tables, arrays and records come back as they were, whole or in part."""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security import (
    Content,
    EncryptedDataset,
    EncryptedRecords,
    EncryptedWriter,
    EncryptionError,
    Key,
    KeyRing,
    NotEncryptedError,
    WrongKeyError,
    read_arrays,
    read_parquet,
    read_table,
    write_arrays,
    write_parquet,
    write_records,
    write_table,
)

KEY = Key(bytes(range(32)), key_id="k1")
FRAME = pl.DataFrame(
    {
        "name": ["Ada", None, "x" * 100_000],
        "age": [36, 41, None],
        "born": [date(1815, 12, 10), None, date(2000, 2, 29)],
        "seen": [datetime(2026, 1, 1, tzinfo=UTC), None, None],
        "scores": [[1.5, None], [], None],
        "place": [{"city": "Paris", "zip": 75}, {"city": None, "zip": 1}, None],
        "code": pl.Series(["a", "b", "a"], dtype=pl.Categorical),
        "picture": [b"\x00\xff", b"", None],
    }
)
ARRAYS = {
    "images": np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28),
    "columns first": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big endian": np.arange(5, dtype=">i4"),
    "every second": np.arange(10)[::2],
    "text": np.array(["a", "bé"]),
    "bytes": np.array([b"ab", b""]),
    "days": np.array(["2026-01-31", "NaT"], dtype="M8[D]"),
    "moments": np.array(["2026-01-31T10", "NaT"], dtype="M8[15m]"),
    "durations": np.array([3], dtype="m8[ns]"),
    "of no unit": np.array(["NaT"], dtype="m8"),
    "truth": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "empty": np.zeros((0, 3)),
    "single": np.array(3.5),
    "half": np.arange(3, dtype=np.float16),
}


@pytest.mark.parametrize("frame", [FRAME, FRAME.head(0), pl.DataFrame()], ids=["full", "no rows", "no columns"])
@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_a_table_comes_back(tmp_path, frame, compression):
    write_table(frame, tmp_path / "table", KEY, compression=compression)
    again = read_table(tmp_path / "table", KEY)
    assert again.equals(frame)
    assert again.schema == frame.schema


def test_columns_of_a_table(tmp_path):
    write_table(FRAME.lazy().filter(pl.col("age") > 40), tmp_path / "table", KEY)
    assert read_table(tmp_path / "table", KEY, columns=["name", "age"]).rows() == [(None, 41)]
    with pytest.raises(ConfigurationError, match="columns must be in the table"):
        read_table(tmp_path / "table", KEY, columns=["salary"])


@pytest.mark.parametrize("write", [write_table, write_parquet])
def test_only_tables_are_written_as_tables(tmp_path, write):
    with pytest.raises(ConfigurationError, match="frame must be a polars DataFrame"):
        write({"a": [1]}, tmp_path / "table", KEY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("hidden", "extra"), [("polars", "persona"), ("pyarrow", "parquet")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, hidden, extra):
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ConfigurationError, match=rf"lightning-privacy\[{extra}\]"):
        (write_table if hidden == "polars" else write_parquet)(FRAME, tmp_path / "table", KEY)


def test_arrays_come_back(tmp_path):
    write_arrays(tmp_path / "arrays", ARRAYS, KEY)
    again = read_arrays(tmp_path / "arrays", KEY)
    assert list(again) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(again[name], array)
        assert (again[name].dtype, again[name].shape) == (array.dtype, array.shape)
        assert again[name].flags.writeable
    assert list(read_arrays(tmp_path / "arrays", KEY, names=["text", "days"])) == ["text", "days"]
    write_arrays(tmp_path / "arrays", {}, KEY)
    assert read_arrays(tmp_path / "arrays", KEY) == {}


def test_one_array_is_read_without_decrypting_the_others(tmp_path):
    write_arrays(tmp_path / "arrays", {"large": np.zeros(1 << 17, np.uint8), "small": np.arange(3)}, KEY)
    damaged = bytearray((tmp_path / "arrays").read_bytes())
    damaged[70_000 + 78] ^= 1  # within the second of three segments
    (tmp_path / "arrays").write_bytes(damaged)
    assert read_arrays(tmp_path / "arrays", KEY, names=["small"])["small"].tolist() == [0, 1, 2]
    with pytest.raises(EncryptionError, match="segment 2 of 3"):
        read_arrays(tmp_path / "arrays", KEY)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"o": np.array([{}, None])}, r"arrays\['o'\] has the type object"),
        ({"s": np.zeros(2, dtype=[("a", int)])}, r"arrays\['s'\] has the type"),
        ({3: np.zeros(2)}, "text as names, got 3"),
    ],
    ids=["objects", "structures", "a number as name"],
)
def test_arrays_that_can_not_be_stored_are_named(tmp_path, arrays, named):
    with pytest.raises(ConfigurationError, match=named):
        write_arrays(tmp_path / "arrays", arrays, KEY)
    assert not list(tmp_path.iterdir())


def test_an_unknown_array_is_named(tmp_path):
    write_arrays(tmp_path / "arrays", {"a": np.zeros(2)}, KEY)
    with pytest.raises(ConfigurationError, match=r"which has a; got 'b'"):
        read_arrays(tmp_path / "arrays", KEY, names=["b"])


def _records(count: int) -> list[bytes]:
    rng = random.Random(count)
    return [rng.randbytes(rng.choice([0, 1, 784, 70_000 if count < 100 else 3])) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 50, 70_000])
def test_records_come_back_in_any_order(tmp_path, count):
    written = _records(count)
    assert write_records(tmp_path / "records", iter(written), KEY) == count
    with EncryptedRecords(tmp_path / "records", KEY) as records:
        assert len(records) == count
        if count <= 50:
            assert list(records) == written
            assert records[1:-1:2] == written[1:-1:2]
        order = random.Random(0).sample(range(-count, count), min(200, 2 * count))
        assert [records[number] for number in order] == [written[number] for number in order]
        assert [records[np.int64(number)] for number in order] == [written[number] for number in order]
        for beyond in (count, -count - 1):
            with pytest.raises(IndexError, match=f"record {beyond} of {count}"):
                records[beyond]


def test_a_record_is_read_without_decrypting_the_others(tmp_path):
    write_records(tmp_path / "records", [bytes(100_000)] * 10, KEY)
    sealed = (tmp_path / "records").read_bytes()
    damaged = bytearray(sealed)
    damaged[100_000] ^= 1  # within the second segment, which the first two records lie in
    (tmp_path / "records").write_bytes(damaged)
    with EncryptedRecords(tmp_path / "records", KEY) as records:
        assert records[5] == bytes(100_000)
        for number in (0, 1):
            with pytest.raises(EncryptionError, match="segment 2 of"):
                records[number]


@pytest.mark.parametrize("record", ["text", 5, None], ids=repr)
def test_records_that_are_not_bytes_are_named(tmp_path, record):
    with pytest.raises(ConfigurationError, match=f"got {type(record).__name__} as record 1"):
        write_records(tmp_path / "records", [b"ok", record], KEY)
    assert not list(tmp_path.iterdir())


def test_a_data_set_decodes_what_a_loader_asks_for(tmp_path):
    write_records(tmp_path / "records", (bytes([number, number + 1]) for number in range(100)), KEY)
    dataset = EncryptedDataset(tmp_path / "records", KEY, decode=lambda record: torch.tensor(list(record)))
    assert len(dataset) == 100
    assert dataset[-1].tolist() == [99, 100]
    assert [example[0].item() for example in dataset.__getitems__([7, 3, 7, 99])] == [7, 3, 7, 99]
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=workers)
        firsts = torch.cat([batch[:, 0] for batch in loader])
        assert sorted(firsts.tolist()) == list(range(100))
    with pytest.raises(ConfigurationError, match="decode must be a function"):
        EncryptedDataset(tmp_path / "records", KEY, decode="image")


def test_a_batch_decrypts_each_segment_once(tmp_path, monkeypatch):
    write_records(tmp_path / "records", (bytes([number]) * 1000 for number in range(250)), KEY)
    dataset = EncryptedDataset(tmp_path / "records", KEY, decode=bytes)
    opened: list[int] = []
    cipher = dataset._records._reader._cipher
    unwrapped = cipher.open
    monkeypatch.setattr(
        cipher, "open", lambda number, *rest, **options: opened.append(number) or unwrapped(number, *rest, **options)
    )
    batch = random.Random(0).sample(range(250), 100)
    assert [example[0] for example in dataset.__getitems__(batch)] == batch
    assert sorted(opened) == sorted(set(opened))


PARQUET = FRAME.select("name", "age", "born", "scores", "place").with_columns(pl.lit(1).alias("place.of birth"))


def test_parquet_comes_back_and_columns_have_their_own_keys(tmp_path):
    path, names, places = tmp_path / "p", Key.generate(key_id="names"), Key.generate(key_id="places")
    write_parquet(PARQUET, path, KEY, column_keys={"name": names, "place": places})
    assert read_parquet(path, KeyRing(KEY, names, places)).equals(PARQUET)
    assert read_parquet(path, KEY, columns=["age", "scores"]).equals(PARQUET.select("age", "scores"))
    for column, key in (("name", names), ("place", places)):
        with pytest.raises(WrongKeyError, match=f"'{key.key_id}'"):
            read_parquet(path, KEY, columns=[column])
        assert read_parquet(path, KeyRing(KEY, key), columns=[column]).equals(PARQUET.select(column))
    with pytest.raises(WrongKeyError, match="another secret of that name"):
        read_parquet(path, Key.generate(key_id="k1"))
    with pytest.raises(ConfigurationError, match="got 'salary'"):
        read_parquet(path, KEY, columns=["salary"])


def test_parquet_is_parquet_and_says_nothing_in_the_clear(tmp_path):
    path = tmp_path / "p"
    write_parquet(pl.DataFrame({"diagnosis": ["very secret text"] * 50}), path, KEY)
    content = path.read_bytes()
    assert content[:4] == content[-4:] == b"PARE"
    assert b"diagnosis" not in content
    assert b"very secret" not in content
    with pytest.raises(OSError, match="decrypt"):
        pyarrow.parquet.read_table(path)


def test_parquet_with_wrong_arguments_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="column_keys names 'salary'"):
        write_parquet(PARQUET, tmp_path / "p", KEY, column_keys={"salary": KEY})
    with pytest.raises(ConfigurationError, match="two keys of the same id"):
        write_parquet(PARQUET, tmp_path / "p", KEY, column_keys={"name": Key.generate(key_id="k1")})
    with pytest.raises(ConfigurationError, match=r"'place\.city' and a nested one of the same path"):
        write_parquet(PARQUET.with_columns(pl.lit(1).alias("place.city")), tmp_path / "p", KEY)
    PARQUET.write_parquet(tmp_path / "plain")
    with pytest.raises(NotEncryptedError, match=r"polars\.read_parquet"):
        read_parquet(tmp_path / "plain", KEY)


@pytest.mark.parametrize("words", [[5, 3, 8, 3], [3, 9, 2], [8, 2], [0], [2**64 - 1]], ids=str)
def test_an_index_that_makes_no_sense_is_refused(tmp_path, words):
    """Ends of records that run backwards or past the data, or more of them than there is room for."""
    with EncryptedWriter(tmp_path / "records", KEY, content=Content.RECORDS) as file:
        file.write(bytes(8) + np.array(words, dtype="<u8").tobytes())
    with pytest.raises(EncryptionError, match="does not hold records"):
        EncryptedRecords(tmp_path / "records", KEY)


@pytest.mark.parametrize(
    "entry", [["a", "<f8", [2], 1], ["a", "|u1", [17], 0], ["a", "|O", [1], 0], ["a", "<f8", [-1], 0]], ids=str
)
def test_an_array_that_is_not_in_the_file_is_refused(tmp_path, entry):
    text = json.dumps([entry]).encode()
    with EncryptedWriter(tmp_path / "arrays", KEY, content=Content.ARRAYS) as file:
        file.write(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(EncryptionError, match="does not hold arrays"):
        read_arrays(tmp_path / "arrays", KEY)
