"""Tables from files: every bad one has its own message, and nothing in a good one is lost."""

from __future__ import annotations

import traceback

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
        ("name,name\nx,y\n", "columns 1 and 2 of 'people.csv' have one name"),
        ("name,\nx,y\n", "column 2 of 'people.csv' has no name"),
        ("name\nx,y\n", "can't be read as a CSV file: line 2 has 2 cells, and the first line 1"),
        ("name,age\nAda\0,36\n", "characters of number 0"),
    ],
    ids=["empty", "blank", "no-rows", "no-values", "two-names", "no-name", "ragged", "zero"],
)
def test_bad_files_have_their_own_messages(tmp_path, data, message):
    with pytest.raises(ConfigurationError, match=message):
        read_table(_file(tmp_path, data))


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ('"Zoe Secret,zoe@secret.example', "a quotation mark in line 4 is never closed"),
        ("Zoe Secret,zoe@secret.example,7,8", "line 4 has 4 cells, and the first line 2"),
        ('"Zoe Secret"s,"zoe@secret.example', "line 4"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_place_and_nothing_of_it(tmp_path, row, place):
    """Errors end up in terminals, logs and tickets."""
    path = tmp_path / "people.csv"
    people = "".join(f"Ann Secret {number},ann{number}@secret.example\n" for number in range(500))
    path.write_text(f"name,mail\na,b\nc,d\n{row}\n{people}")
    with pytest.raises(ConfigurationError) as found:
        read_table(path)
    assert place in str(found.value)
    told = "".join(traceback.format_exception(found.value))
    assert "Secret" not in told
    assert "secret.example" not in told


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_found_out_and_not_taken_for_one_column(tmp_path, mark):
    path = tmp_path / "people.csv"
    path.write_text(f"id{mark}name{mark}age\n1{mark}Ann{mark}30\n")
    with pytest.raises(ConfigurationError, match="pass separator="):
        read_table(path)
    assert read_table(path, separator=mark).rows() == [(1, "Ann", 30)]


def test_one_column_whose_name_holds_another_mark_can_be_meant(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("born; or so\n1950\n")
    assert read_table(path, separator=",").columns == ["born; or so"]


@pytest.mark.parametrize("separator", [";;", "", "€"])
def test_a_separator_is_one_character(tmp_path, separator):
    path = tmp_path / "people.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigurationError, match="separator must be one character"):
        read_table(path, separator=separator)


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


def test_cells_of_declared_columns_are_read_by_themselves(tmp_path):
    """The columns that a schema or kinds declare have one type, whatever is in them."""
    columns = {"age": "whole number", "height": "number", "flag": "boolean", "code": "text"}
    for lines in ("36,1.75,true,12\n40,2,0,13\n", '36.0,2,FALSE,12\n" 40","1e0",,x\n'):
        path = _file(tmp_path, f"age,height,flag,code\n{lines}")
        schema = TableSchema({name: Column(kind) for name, kind in columns.items()})
        for table in (read_table(path, schema=schema), read_table(path, kinds={**columns, "other": "text"})):
            assert table.dtypes == [pl.Int64, pl.Float64, pl.Boolean, pl.String]
            assert table["age"].to_list() == [36, 40]
            assert table["code"][0] == "12"


def test_a_cell_of_another_kind_is_refused_by_a_schema_and_missing_by_kinds(tmp_path):
    path = _file(tmp_path, 'name,age\nAda,36\nCarl,forty\nMax,""\nEva,36.5\nIda,nan\n')
    with pytest.raises(
        ConfigurationError, match="column 'age' has 3 values that are no whole numbers, the first in row 2"
    ):
        read_table(path, schema=TableSchema({"age": Column("whole number")}))
    assert read_table(path, kinds={"age": "whole number"})["age"].to_list() == [36, None, None, None, None]
    assert read_table(path, kinds={"age": "number"})["age"].to_list() == [36.0, None, None, 36.5, None]
    # The schema goes first.
    assert read_table(path, schema=TableSchema({"age": Column("text")}), kinds={"age": "number"})["age"][1] == "forty"


def test_kinds_that_fit_nothing_are_refused(tmp_path):
    path = _file(tmp_path, "name,age\nAda,old\n,\n")
    with pytest.raises(ConfigurationError, match=r"column 'age' as number, and not one .* kinds=\{'age': 'text'\}"):
        read_table(path, kinds={"age": "number"})
    with pytest.raises(ConfigurationError, match=r"kinds\['age'\] must be"):
        read_table(path, kinds={"age": "integer"})


def test_a_quotation_mark_that_is_never_closed_is_found_in_a_column_of_numbers_too(tmp_path):
    path = _file(tmp_path, "name,age\nAda,36\nCarl," + "x" * 40_000 + "\n")
    with pytest.raises(ConfigurationError, match="column 'age' has a cell of 40,000 characters in row 2"):
        read_table(path, kinds={"age": "number"})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), name=st.sampled_from(["f.csv", "f.parquet", "f.arrow"]))
def test_any_bytes_give_a_table_or_a_named_error(tmp_path, data, name):
    for encoding in (None, "mixed"):
        try:
            table = read_table(_file(tmp_path, data, name), encoding=encoding)
        except ConfigurationError:
            continue
        assert table.height > 0
