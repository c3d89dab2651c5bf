"""Tables of real people in place of invented ones, and the steps that only tables with images need."""

from __future__ import annotations

import gzip
import re
import struct

import numpy as np
import polars as pl
import pytest

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.data import Damage, PersonaDataModule
from lightning_privacy.data.persona.carried_roles import check_carried
from lightning_privacy.data.persona.default_preparation import default_roles
from lightning_privacy.data.persona.forget import Forget
from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.data.persona.image_labels import ImageLabelErrors
from lightning_privacy.data.persona.pipeline import run
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.table import PersonaTable
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import NormaliseCodes, Preparation, Roles


@pytest.fixture
def files(tmp_path):
    data = PersonaGenerator(num_persons=80, damage=None, images_per_person=(1.0,)).generate()
    data.records.drop("public").write_parquet(tmp_path / "people.parquet")
    data.records.drop("public").write_csv(tmp_path / "people.csv")
    np.save(tmp_path / "images.npy", data.images)
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, *data.images.shape)
    (tmp_path / "images-idx3-ubyte.gz").write_bytes(gzip.compress(header + data.images.tobytes()))
    return data, tmp_path


@pytest.mark.parametrize("table", ["people.parquet", "people.csv"])
@pytest.mark.parametrize("images", ["images.npy", "images-idx3-ubyte.gz"])
def test_a_table_of_ones_own_is_trained_on(files, table, images):
    data, folder = files
    source = PersonaTable(folder / table, folder / images)
    datamodule = PersonaDataModule(
        source=source, preparation=[], roles={"identifier": "customer", "client": "location"}, held_out=0.5
    )
    splits = datamodule.splits
    assert len(splits.train) + len(splits.val) + len(splits.test) == 80
    # Without a column of public people, a share of them is held out.
    assert 20 < len(splits.train) < 60
    own = {person: row for row, person in enumerate(data.records["customer"])}
    rows = [own[person] for person in splits.train.person]
    expected = data.images[data.records["image"].to_numpy()[rows]] / 127.5 - 1
    assert np.allclose(splits.train.tensors[0][:, 0], expected, atol=1e-6)
    assert splits.train.client.tolist() == data.records["location"].gather(rows).to_list()


def test_another_content_is_another_source(files):
    _, folder = files
    before = Plan(source=PersonaTable(folder / "people.csv", folder / "images.npy")).fingerprint
    assert Plan(source=PersonaTable(folder / "people.csv", folder / "images.npy")).fingerprint == before
    with (folder / "people.csv").open("a") as file:
        file.write("\n")
    assert Plan(source=PersonaTable(folder / "people.csv", folder / "images.npy")).fingerprint != before


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 32, 32), np.uint8), np.zeros((4, 1, 28, 28), np.uint8), np.zeros((4, 28, 28)), np.zeros(4, np.uint8)],
    ids=["size", "channels", "type", "flat"],
)
def test_images_of_another_shape_are_named(files, array):
    _, folder = files
    np.save(folder / "images.npy", array)
    shape = str(array.shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ConfigurationError, match=rf"uint8 of shape \(num_images, 28, 28\), got {array.dtype} of shape"):
        PersonaTable(folder / "people.csv", folder / "images.npy").generate()
    with pytest.raises(ConfigurationError, match=shape):
        PersonaTable(folder / "people.csv", folder / "images.npy").generate()


def test_files_that_are_missing_or_broken_are_named(files):
    _, folder = files
    with pytest.raises(ConfigurationError, match=r"path must be a file, and there is none at '.*nobody\.csv'"):
        PersonaTable(folder / "nobody.csv", folder / "images.npy")
    with pytest.raises(ConfigurationError, match="images must be a file"):
        PersonaTable(folder / "people.csv", folder / "nothing.npy")
    np.save(folder / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    (folder / "broken.npy").write_bytes(b"\x93NUMPY")
    for name in ("objects.npy", "broken.npy"):
        with pytest.raises(ConfigurationError, match=f"{name}' is no file of np.save with numbers"):
            PersonaTable(folder / "people.csv", folder / name).generate()


# Steps.


def test_wrong_labels_are_found_by_the_images():
    """Those planted in 1,500 people, by the neighbours of each image."""
    # Without doubles, which bear one another out.
    damage = Damage(exact_duplicates=0.0, near_duplicates=0.0)
    data = PersonaGenerator(num_persons=1500, public_share=0.0, damage=damage).generate()
    step = ImageLabelErrors(action="flag")
    plan = Plan(source=data_source(data), held_out=0.2, train_preparation=Preparation([step]), max_records=99)
    stage = run(plan, store=None)
    train = stage.table.filter(side="train")
    wrong = train["record"].is_in(data.truth.planted("wrong_label").implode())
    found = train["label_error"]
    assert (wrong & found).sum() / wrong.sum() > 0.7  # recall
    assert (wrong & found).sum() / found.sum() > 0.6  # precision
    assert not stage.table.filter(pl.col("side") != "train")["label_error"].any()


def data_source(data):
    return type("Given", (), {"generate": lambda self: data, "__repr__": lambda self: "given"})()


def test_wrong_labels_are_looked_for_in_private_with_a_caveat_only():

    def prepared(caveat):
        plan = Plan(
            source=PersonaGenerator(num_persons=300), train_preparation=Preparation([ImageLabelErrors(caveat=caveat)])
        )
        ledger = PrivacyLedger(delta=1e-5)
        return run(plan, store=None, ledger=ledger), ledger

    with pytest.raises(PrivacyViolation, match="label errors"):
        prepared(caveat=False)
    stage, ledger = prepared(caveat=True)
    assert any("label" in caveat for caveat in ledger.caveats)
    assert stage.report.steps[0].rows_after < stage.report.steps[0].rows_before


def test_columns_are_forgotten_and_a_wrong_name_is_an_error():
    table = pl.DataFrame({"name": ["Ada"], "age": [36], "mail": ["a@example.org"]})
    step = Forget(["name", "mail"])
    assert step.run(table).columns == ["age"]
    assert step.report().learned == {"left out": "name, mail"}
    with pytest.raises(ConfigurationError, match="columns has 'nmae', which the table does not have"):
        Forget("nmae").run(table)
    with pytest.raises(ConfigurationError, match="columns must name at least one column"):
        Forget([])


def test_the_class_is_in_the_column_that_has_the_role(files):
    data, folder = files
    own = data.records.drop("public").with_columns(odd=pl.col("label") % 2, label=pl.lit("not a class"))
    own.write_csv(folder / "own.csv")
    datamodule = PersonaDataModule(
        source=PersonaTable(folder / "own.csv", folder / "images.npy", kinds={"label": "text"}),
        preparation=[],
        train_preparation=[ImageLabelErrors(action="flag")],
        roles={"identifier": "customer", "label": "odd"},
        held_out=0.5,
    )
    train = datamodule.splits.train
    digits = dict(data.records.select("customer", "label").iter_rows())
    assert train.labels.tolist() == [digits[person] % 2 for person in train.person]


@pytest.mark.parametrize(
    ("role", "column"), [("groups", "Geschlecht"), ("groups", "time"), ("features", "income"), ("features", "age")]
)
def test_a_role_that_batches_have_no_place_for_is_refused(files, role, column):
    _, folder = files
    source = PersonaTable(folder / "people.csv", folder / "images.npy")
    with pytest.raises(ConfigurationError, match=rf"column '{column}' among the {role}.*rename.*own-table"):
        PersonaDataModule(source=source, preparation=[], roles={role: [column]})


def test_roles_of_generated_tables_are_all_held_by_batches():
    check_carried(default_roles())
    check_carried(Roles(groups=("gender", "age_band", "location"), features=("image",), label="digit"))


def _coded(files, codes, **options):
    """A table in which women are "w", and so on; and what is said while it is prepared."""
    data, folder = files
    own = data.records.drop("public").with_columns(gender=pl.col("gender").replace({"female": "w", "male": "m"}))
    own.write_csv(folder / "own.csv")
    steps = [NormaliseCodes("gender", codes, **options)] if codes else []
    source = PersonaTable(folder / "own.csv", folder / "images.npy")
    return PersonaDataModule(source=source, preparation=steps, roles={"identifier": "customer"}, held_out=0.5)


def test_codes_on_no_list_are_told_once_with_their_column(files, caplog):
    datamodule = _coded(files, None)
    with caplog.at_level("WARNING"):
        datamodule.setup("fit")
    (said,) = [record.getMessage() for record in caplog.records if "on no list" in record.getMessage()]
    assert re.search(r"'gender' in the batches \d+ of 80 cells", said)
    assert set(datamodule.splits.train.gender.tolist()) == {2}


def test_codes_that_a_step_does_not_know_are_in_its_report(files, caplog):
    datamodule = _coded(files, {"female": ["w"]}, unknown="null")
    with caplog.at_level("WARNING"):
        learned = datamodule.preparation_report.steps[0].learned
    assert re.search(r"'gender' in step 'normalise codes' \d+ of 80 cells\. Add", caplog.text)
    assert learned["gender: cells that say something"] == 80
    assert 20 < learned["gender: not on the list"] < 60


def test_codes_of_the_batches_are_told_as_nothing(files, caplog):
    datamodule = _coded(files, {"female": ["w"], "male": ["m"], "other": []})
    with caplog.at_level("WARNING"):
        assert datamodule.preparation_report.steps[0].learned["gender: not on the list"] == 0
    assert "on no list" not in caplog.text
    assert {0, 1} <= set(datamodule.splits.train.gender.tolist())
