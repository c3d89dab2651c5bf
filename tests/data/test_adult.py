"""Adult: public categories and bounds, a category for what is missing, errors that name the line."""

from __future__ import annotations

import pytest
import torch

from lightning_privacy.data import AdultDataModule
from lightning_privacy.data.adult_schema import COLUMNS, NUM_FEATURES, Category, Number, encode_row
from lightning_privacy.errors import ConfigurationError

HEADER = ", ".join([*COLUMNS, "Y"])
ROW = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, {}, {}"
)


def _write(folder, train, test):
    (folder / "adult.data").write_text("\n".join(train) + "\n\n")
    (folder / "adult.test").write_text("\n".join(test) + "\n\n")


def _values(row: str) -> list[str]:
    return [value.strip() for value in row.split(",")]


def _slice(name: str) -> slice:
    """Where the features of a column stand in an encoded row."""
    start = 0
    for column, kind in COLUMNS.items():
        width = 0 if kind is None else kind.width
        if column == name:
            return slice(start, start + width)
        start += width
    raise KeyError(name)


def test_a_row_becomes_indicators_and_scaled_numbers():
    features, label = encode_row(_values(ROW.format("Cuba", ">50K")))
    assert label == 1
    assert len(features) == NUM_FEATURES == 112
    assert features[_slice("age")] == [(39 - 17) / (90 - 17)]
    country = COLUMNS["native-country"]
    assert isinstance(country, Category)
    indicators = features[_slice("native-country")]
    assert sum(indicators) == 1
    assert indicators[country.values.index("Cuba")] == 1
    assert sum(features[_slice("workclass")]) == 1


@pytest.mark.parametrize("value", ["?", "Atlantis"])
def test_p33_a_missing_or_unknown_category_has_an_indicator_of_its_own(value):
    features, _ = encode_row(_values(ROW.format(value, "<=50K")))
    indicators = features[_slice("native-country")]
    assert indicators == [0.0] * (len(indicators) - 1) + [1.0]


@pytest.mark.parametrize(("text", "expected"), [("17", 0.0), ("90", 1.0), ("3", 0.0), ("200", 1.0)])
def test_p33_numbers_are_clipped_to_public_bounds(text, expected):
    assert Number(17, 90).encode(text) == [expected]


def test_amounts_are_scaled_by_their_logarithm():
    amount = Number(0, 99_999, logarithmic=True)
    assert amount.encode("0") == [0.0]
    assert amount.encode("99999") == [1.0]
    assert amount.encode("315.227766")[0] == pytest.approx(0.5, abs=1e-6)


def test_files_with_and_without_a_header_and_with_dots(tmp_path):
    rows = [ROW.format("Cuba", "<=50K"), ROW.format("Peru", ">50K")]
    _write(tmp_path, rows, [HEADER, *(f"{row}." for row in rows)])
    with_header = AdultDataModule(tmp_path, val_size=0).splits
    _write(tmp_path, [HEADER, *rows], ["|1x3 Cross validator", *(f"{row}." for row in rows)])
    with_remark = AdultDataModule(tmp_path, val_size=0).splits
    for splits in (with_header, with_remark):
        assert splits.train.tensors[1].tolist() == [0, 1]
        assert torch.equal(splits.train.tensors[0], splits.test.tensors[0])
        assert splits.train.tensors[0].dtype == torch.float32


def test_p33_what_a_row_becomes_does_not_depend_on_the_others(tmp_path):
    row, other = ROW.format("Cuba", "<=50K"), "90" + ROW.format("Laos", ">50K")[2:]
    _write(tmp_path, [row], [row])
    alone = AdultDataModule(tmp_path, val_size=0).splits.train.tensors[0][0]
    _write(tmp_path, [row, other, other], [row])
    assert torch.equal(AdultDataModule(tmp_path, val_size=0).splits.train.tensors[0][0], alone)


def test_batches_have_the_groups_of_sex_and_race_by_name(tmp_path):
    black_woman = ROW.format("Cuba", ">50K").replace("White, Male", "Black, Female")
    unknown = ROW.format("Cuba", "<=50K").replace("White, Male", "?, ?")
    _write(tmp_path, [ROW.format("Cuba", "<=50K"), black_woman, unknown], [black_woman])
    data = AdultDataModule(tmp_path, val_size=0)
    (batch,) = data.test_dataloader()
    assert (batch.labels.tolist(), batch.sex.tolist(), batch.race.tolist()) == ([1], [0], [4])
    features, labels, sex, race = next(iter(data.train_dataloader()))
    assert sorted(zip(labels.tolist(), sex.tolist(), race.tolist(), strict=True)) == [(0, 1, 0), (0, 2, 5), (1, 0, 4)]
    assert features.shape == (3, NUM_FEATURES)


def test_a_missing_file_is_named_with_its_source(tmp_path):
    with pytest.raises(ConfigurationError, match=r"lacks adult\.data and adult\.test: fetch them from https://"):
        AdultDataModule(tmp_path).prepare_data()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1, 2, 3", "15 values are needed, got 3"),
        (ROW.format("Cuba", "50K"), "the label must be one of <=50K, >50K, got '50K'"),
        ("old" + ROW.format("Cuba", "<=50K")[2:], "could not convert"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, message):
    _write(tmp_path, [HEADER, ROW.format("Cuba", "<=50K"), bad], [HEADER])
    with pytest.raises(ConfigurationError, match=rf"adult\.data, line 3: {message}"):
        AdultDataModule(tmp_path).load()


def test_a_file_without_rows_is_named(tmp_path):
    _write(tmp_path, [HEADER], [HEADER])
    with pytest.raises(ConfigurationError, match=r"adult\.data has no rows"):
        AdultDataModule(tmp_path).load()
