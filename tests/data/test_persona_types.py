"""Types of a table's columns: declared where their meaning is known, so that no cell decides about other people."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._preconditions import check_data_ledger
from lightning_privacy.data import PersonaDataModule
from lightning_privacy.data.persona.encoding import encode
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.table import PersonaTable
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Column, TableSchema

PEOPLE = 60
ROLES = {"identifier": "customer", "client": "location", "label": "label"}
SCHEMA = TableSchema({"income": Column("number"), "note": Column("text")})


def rows(**last):
    """People whose cells are numbers wherever they can be; of the last one some are others."""
    table = {
        "customer": [f"{number}.50" for number in range(PEOPLE)],
        "gender": ["male", "female", "0"] * (PEOPLE // 3),
        "age": [str(20 + number) for number in range(PEOPLE)],
        "location": ["Lyon", "7"] * (PEOPLE // 2),
        "label": [str(number % 10) for number in range(PEOPLE)],
        "image": [str(number) for number in range(PEOPLE)],
        "public": ["1", "0", "0"] * (PEOPLE // 3),
    }
    for name, cell in last.items():
        table[name][-1] = cell
    return table


def folder_with(folder, table, *, suffix="csv"):
    images = np.arange(PEOPLE, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    np.save(folder / "images.npy", images)
    if suffix == "csv":
        lines = [
            ",".join(table),
            *(",".join(f'"{cell}"' if cell == "" else cell for cell in row) for row in _rows(table)),
        ]
        (folder / "people.csv").write_text("\n".join(lines))
    else:
        pl.DataFrame(table).write_parquet(folder / "people.parquet")
    return folder / f"people.{suffix}", folder / "images.npy"


def _rows(table):
    return zip(*table.values(), strict=True)


def encoded(source, ledger=None):
    """What is trained, validated and tested on: person to side and numbers."""
    datamodule = PersonaDataModule(source=source, preparation=[], roles=ROLES, ledger=ledger)
    found = {}
    splits = datamodule.splits
    for side, dataset in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        for row, person in enumerate(dataset.person.tolist()):
            numbers = [int(column[row]) for column in dataset.tensors[1:]]
            found[person] = (side, *numbers, float(dataset.tensors[0][row].sum()), str(dataset.client[row]))
    return found


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("age", "forty"),
        ("age", ""),
        ("age", "3.75"),
        ("age", "0079"),
        ("age", "1e999"),
        ("customer", "somebody"),
        ("gender", "none"),
        ("location", "nowhere"),
        ("label", "x"),
        ("label", "3.0"),
        ("image", "none"),
        ("public", "perhaps"),
        ("public", "true"),
    ],
)
def test_an_odd_cell_changes_nobody_else(tmp_path, column, cell):
    """Neighbours: two tables that differ in one cell of one person."""
    results = []
    for number, table in enumerate((rows(), rows(**{column: cell}))):
        folder = tmp_path / str(number)
        folder.mkdir()
        ledger = PrivacyLedger(delta=1e-6, budget=1.0, unit="person")
        results.append(encoded(PersonaTable(*folder_with(folder, table)), ledger))
        assert not any("types" in caveat for caveat in ledger.caveats)
    others = [f"{number}.50" for number in range(PEOPLE - 1)]
    one, two = ({person: found.get(person) for person in others} for found in results)
    assert one == two
    assert sum(value is not None for value in one.values()) > PEOPLE // 2


def test_ages_of_a_table_with_an_odd_one_keep_their_bands(tmp_path):
    source = PersonaTable(*folder_with(tmp_path, rows(age="forty")))
    assert source.generate().records["age"].to_list() == [*range(20, 20 + PEOPLE - 1), None]


def test_types_that_are_found_by_looking_at_all_rows_are_one_caveat(tmp_path):
    table = rows() | {"income": ["1"] * PEOPLE, "note": ["2"] * PEOPLE}
    files = folder_with(tmp_path, table)
    ledger = PrivacyLedger(delta=1e-6)
    for _ in range(2):
        encoded(PersonaTable(*files), ledger)
    (caveat,) = [caveat for caveat in ledger.caveats if "types" in caveat]
    assert "'income', 'note'" in caveat
    assert "schema=TableSchema({'income': Column('text')})" in caveat
    many = folder_with(tmp_path, rows() | {f"c{number}": ["1"] * PEOPLE for number in range(7)})
    ledger = PrivacyLedger(delta=1e-6)
    encoded(PersonaTable(*many), ledger)
    assert any("'c0', 'c1', 'c2', 'c3', 'c4' and 2 more" in caveat for caveat in ledger.caveats)


@pytest.mark.parametrize("declared", [{"schema": SCHEMA}, {"kinds": {"income": "number", "note": "text"}}, "parquet"])
def test_declared_types_are_no_caveat(tmp_path, declared):
    table = rows() | {"income": ["1"] * PEOPLE, "note": ["2"] * PEOPLE}
    files = folder_with(tmp_path, table, suffix="parquet" if declared == "parquet" else "csv")
    if declared == "parquet":
        numbers = pl.read_parquet(files[0]).with_columns(pl.col("public").cast(pl.Int64).cast(pl.Boolean))
        numbers.write_parquet(files[0])
    ledger = PrivacyLedger(delta=1e-6)
    encoded(PersonaTable(*files, **({} if declared == "parquet" else declared)), ledger)
    assert not any("types" in caveat for caveat in ledger.caveats)


def test_a_schema_that_leaves_a_column_open_leaves_its_caveat(tmp_path):
    table = rows() | {"income": ["1"] * PEOPLE, "note": ["2"] * PEOPLE}
    source = PersonaTable(
        *folder_with(tmp_path, table), schema=TableSchema({"note": Column("text"), "income": Column()})
    )
    source.generate()
    assert "the columns 'income' were" in source.caveats[0]


def test_a_store_has_the_caveat_for_the_next_ledger(tmp_path):
    files = folder_with(tmp_path, rows() | {"note": ["2"] * PEOPLE})
    told = []
    for _ in range(2):
        ledger = PrivacyLedger(delta=1e-6)
        datamodule = PersonaDataModule(
            source=PersonaTable(*files),
            preparation=[],
            roles=ROLES,
            ledger=ledger,
            store=tmp_path / "store",
            key=bytes(32),
        )
        assert len(datamodule.splits.train)
        told.append([caveat for caveat in ledger.caveats if "types" in caveat])
    assert told[0] == told[1]
    assert len(told[0]) == 1


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
def test_p33_what_limits_the_guarantee_is_told_to_training_where_the_preparation_had_no_ledger(tmp_path, stored):
    files, ledgers = folder_with(tmp_path, rows() | {"note": ["2"] * PEOPLE}), []
    store = {"store": tmp_path / "store", "key": bytes(32)} if stored else {}
    for _ in range(2):
        datamodule = PersonaDataModule(source=PersonaTable(*files), preparation=[], roles=ROLES, **store)
        train = datamodule.splits.train
        for source in (datamodule, train, Subset(train, range(len(train)))):
            ledgers.append(PrivacyLedger(delta=1e-6))
            check_data_ledger(source, ledgers[-1])
            check_data_ledger(train, ledgers[-1])
    given = PrivacyLedger(delta=1e-6)
    assert len(PersonaDataModule(source=PersonaTable(*files), preparation=[], roles=ROLES, ledger=given).splits.train)
    assert [len([c for c in given.caveats if text in c]) for text in ("types of", "told apart by")] == [1, 1]
    assert {ledger.caveats for ledger in ledgers} == {given.caveats}


@pytest.mark.parametrize("value", [(0.0, 255.0), "0-255", None], ids=["range", "text", "none"])
def test_an_attribute_of_a_data_set_of_ones_own_is_no_caveat(value):
    """A common word on somebody's data set says nothing about a guarantee."""
    dataset, ledger = TensorDataset(torch.zeros(3)), PrivacyLedger(delta=1e-6)
    dataset.limits = value
    check_data_ledger(dataset, ledger)
    assert ledger.caveats == ()


def test_what_is_declared_is_part_of_the_plan(tmp_path):
    files = folder_with(tmp_path, rows())
    plans = [
        Plan(source=PersonaTable(*files, schema=TableSchema({"age": Column(kind)}))).fingerprint
        for kind in ("number", "number", "text")
    ]
    assert plans[0] == plans[1] != plans[2]


def test_ages_are_whole_years_unless_declared_otherwise(tmp_path):
    files = folder_with(tmp_path, rows(age="29.75"))
    assert PersonaTable(*files).generate().records["age"][-1] == 29
    assert PersonaTable(*files).generate().records["age"].dtype == pl.Int64
    for options in ({"kinds": {"age": "number"}}, {"schema": TableSchema({"age": Column("number")})}):
        assert PersonaTable(*files, **options).generate().records["age"][-1] == 29.75


def test_a_column_that_holds_something_else_altogether_is_named(tmp_path):
    files = folder_with(tmp_path, rows() | {"age": ["18-29"] * PEOPLE})
    with pytest.raises(
        ConfigurationError, match="kinds reads column 'age' as number, and not one of its cells is that"
    ):
        PersonaTable(*files).generate()
    assert {found[3] for found in encoded(PersonaTable(*files, kinds={"age": "text"})).values()} == {0}


@pytest.mark.parametrize(
    ("written", "public"), [("True", True), ("1", True), ("FALSE", False), ("yes", None), ("2", None)]
)
def test_public_is_what_says_so_clearly(tmp_path, written, public):
    source = PersonaTable(*folder_with(tmp_path, rows(public=written)))
    assert source.generate().records["public"][-1] is public


def test_cells_are_encoded_alike_in_columns_of_any_type():
    """Numbers as numbers, as text, and as text among cells that are none."""
    ages = [17.0, 18.0, 44.5, 80.0, None]
    texts = ["17", "18.0", "44.5", "80", None]
    images = np.zeros((5, 28, 28), np.uint8)

    def bands(column, label=("1", "2", "3", "4", "5"), image=("0", "1", "2", "3", "4")):
        table = pl.DataFrame({"image": image, "label": label, "age": column})
        dataset = encode(table, images, person=None, client=None)
        assert dataset.labels.tolist() == [1, 2, 3, 4, 5]
        return dataset.age_band.tolist()

    assert bands(ages) == bands(texts) == [5, 0, 1, 4, 5]
    assert bands(ages, label=[1.0, 2.0, 3.0, 4.0, 5.0], image=[0, 1, 2, 3, 4]) == [5, 0, 1, 4, 5]
    assert bands(pl.Series(texts, dtype=pl.Categorical)) == [5, 0, 1, 4, 5]
    assert bands(["17", "18", "44.5", "75+", "forty"], label=["1", "2.0", "3", "4", "5"]) == [5, 0, 1, 4, 5]
    assert bands(["inf", "nan", "-1", "60-74", "unknown"]) == [5, 5, 5, 3, 5]
