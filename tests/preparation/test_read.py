"""Tables from files: every bad one has its own message, and nothing in a good one is lost."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Roles
from lightning_privacy.preparation.read import read_table
from lightning_privacy.preparation.schema import Column, TableSchema

TABLE = pl.DataFrame({"name": ["Ada", "Müller"], "age": [36, 50]})


def _file(tmp_path, data, name="people.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "arrow", "feather"])
def test_every_kind_of_file_gives_the_same_table(tmp_path, suffix):
    path = tmp_path / f"people.{suffix}"
    if suffix == "csv":
        TABLE.write_csv(path)
    elif suffix == "tsv":
        TABLE.write_csv(path, separator="\t")
    elif suffix == "parquet":
        TABLE.write_parquet(path)
    else:
        TABLE.write_ipc(path)
    assert read_table(path).equals(TABLE)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_that_say_their_encoding_need_no_other_word(tmp_path, encoding):
    assert read_table(_file(tmp_path, "name,age\nAda,36\nMüller,50\n".encode(encoding))).equals(TABLE)


def test_numbers_are_numbers_only_where_nothing_is_lost(tmp_path):
    text = (
        "code,phone,age,height,flag,big,mixed,gap\n"
        "01069,+49,36,1.75,true,12345678901234567890,1,\n"
        "80331,+1,50,2,false,2,x,3\n"
    )
    table = read_table(_file(tmp_path, text))
    assert table.rows() == [
        ("01069", "+49", 36, 1.75, True, "12345678901234567890", "1", None),
        ("80331", "+1", 50, 2.0, False, "2", "x", 3),
    ]


def test_mixed_encodings_are_refused_with_the_line_and_read_when_told(tmp_path):
    lines = [b"name,place", "Müller,Köln".encode(), "Grün,Zürich".encode("cp1252"), b"x\x81y,\x80"]
    path = _file(tmp_path, b"\r\n".join(lines))
    with pytest.raises(
        ConfigurationError, match=r"line 3 of 'people.csv' is not utf-8 \(byte 0xfc\).*encoding='mixed'"
    ):
        read_table(path)
    table = read_table(path, encoding="mixed")
    assert table.rows() == [("Müller", "Köln"), ("Grün", "Zürich"), ("x\x81y", "€")]
    alone = _file(tmp_path, "name\nGrün\n".encode("cp1252"), "alone.csv")
    assert read_table(alone, encoding="cp1252")["name"].to_list() == ["Grün"]
    with pytest.raises(
        ConfigurationError, match="encoding must be 'mixed', None or one that Python knows, got 'utf-9'"
    ):
        read_table(alone, encoding="utf-9")


def test_a_cell_of_100_000_characters_is_refused_with_its_place_and_read_when_meant(tmp_path):
    long = "x" * 100_000
    path = _file(tmp_path, f"name,note\nAda,short\nCarl,{long}\n")
    with pytest.raises(ConfigurationError, match="column 'note' has a cell of 100,000 characters in row 2"):
        read_table(path)
    assert read_table(path, longest_cell=None)["note"][1] == long


def test_cells_with_quotes_and_line_breaks_are_whole(tmp_path):
    table = read_table(_file(tmp_path, 'name,note\n"Byron, Ada","said ""yes""\nand left"\n'))
    assert table.rows() == [("Byron, Ada", 'said "yes"\nand left')]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "'people.csv' is empty"),
        (" \n \n", "'people.csv' is empty"),
        ("name,age\n", "no rows, only the columns 'name', 'age'"),
        ("name,age\n,\n,\n", "every value of the table's 2 rows is missing"),
        ("name,name\nx,y\n", "two columns named 'name'"),
        ("name,\nx,y\n", "column 2 of 'people.csv' has no name"),
        ("name\nx,y\n", "can't be read as csv"),
        ("name,age\nAda\0,36\n", "characters of number 0"),
    ],
    ids=["empty", "blank", "no-rows", "no-values", "two-names", "no-name", "ragged", "zero"],
)
def test_bad_files_have_their_own_messages(tmp_path, data, message):
    with pytest.raises(ConfigurationError, match=message):
        read_table(_file(tmp_path, data))


def test_files_that_are_something_else_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="path must be a file, and there is none at"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ConfigurationError, match=r"path must end in one of .csv"):
        read_table(_file(tmp_path, "x", "people.xlsx"))
    for name in ("people.parquet", "people.arrow"):
        with pytest.raises(ConfigurationError, match=f"{name!r} can't be read as"):
            read_table(_file(tmp_path, "no such file" * 9, name))


def test_roles_and_schema_are_checked(tmp_path):
    path = _file(tmp_path, "name,age\nAda,36\n")
    with pytest.raises(ConfigurationError, match=r"label names column 'digit'"):
        read_table(path, roles=Roles(label="digit"))
    with pytest.raises(ConfigurationError, match="1 value above 30"):
        read_table(path, schema=TableSchema({"age": Column(highest=30)}))
    assert read_table(path, roles=Roles(identifier="name")).height == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), name=st.sampled_from(["f.csv", "f.parquet", "f.arrow"]))
def test_any_bytes_give_a_table_or_a_named_error(tmp_path, data, name):
    for encoding in (None, "mixed"):
        try:
            table = read_table(_file(tmp_path, data, name), encoding=encoding)
        except ConfigurationError:
            continue
        assert table.height > 0
