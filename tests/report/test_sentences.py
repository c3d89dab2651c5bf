"""The guarantee in words: figures never rounded down, and a ceiling that no attack is above."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy.stats import norm

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.accounting.sweep import SWEEP_CAVEAT
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.mechanisms.noise import SeededNoiseWarning
from lightning_privacy.report.sentences import Promise, pitfall_of, voids


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
def test_the_ceiling_is_what_the_best_attack_on_randomised_response_reaches(epsilon):
    """Randomised response of one bit is the (epsilon, 0) mechanism that tells most; its best attack by brute force."""
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    outputs = {(0, 0): keep, (0, 1): 1 - keep, (1, 0): 1 - keep, (1, 1): keep}
    best = max(
        sum(0.5 * outputs[secret, seen] for secret in (0, 1) for seen in (0, 1) if guess[seen] == secret)
        for guess in itertools.product((0, 1), repeat=2)
    )
    promise = Promise(epsilon=epsilon, delta=1e-300, unit="example")
    assert promise.right_guesses() == math.ceil(1000 * best - 1e-9)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_no_attack_on_a_gaussian_is_above_the_ceiling(sigma):
    """The best guess between N(0, s) and N(1, s) is right with probability Phi(1 / 2s)."""
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(GaussianRelease(noise_multiplier=sigma))
    promise = Promise(epsilon=ledger.epsilon(exact=True), delta=1e-5, unit="example")
    assert 1000 * norm.cdf(0.5 / sigma) <= promise.right_guesses() <= 1000


def test_an_enormous_epsilon_bounds_nothing():
    assert Promise(epsilon=1e6, delta=1e-5, unit="example").right_guesses() == 1000
    assert Promise(epsilon=0.0, delta=1e-9, unit="example").right_guesses() == 501


def test_the_precise_sentence_has_every_part():
    sentence = Promise(epsilon=2.9998, delta=1e-5, unit="client", replace_one_epsilon=6.4291).precise()
    for part in ("weights", "epsilon = 3.000", "delta = 1e-05", "each client", "null record", "zero-out", "6.430",
                 "any other client"):  # fmt: skip
        assert part in sentence
    bounded = Promise(epsilon=1, delta=1e-5, unit="example").precise()
    assert "any other example, epsilon is not known exactly for what was released, and never more than" in bounded
    assert "epsilon 2.000 at delta 3.72e-05" in bounded


def test_data_that_were_prepared_privately_make_no_model_private():
    promise = Promise(epsilon=1.0, delta=1e-5, unit="example", covers="data")
    assert "weights" not in promise.precise()
    assert promise.not_covered()[0].startswith("The training that followed")


@pytest.mark.parametrize("unit", ["example", "record"])
def test_p34_a_person_in_one_record_is_covered_and_one_in_several_is_not(unit):
    def said(records):
        promise = Promise(epsilon=1.0, delta=1e-5, unit=unit, records_per_person=records)
        return " ".join(promise.covered()), " ".join(promise.not_covered())

    covered, missing = said(1)
    assert f"at most one {unit} is of one person" in covered
    assert "Persons with several" not in missing
    for records in (None, 2):
        covered, missing = said(records)
        assert "person" not in covered
        assert ("Persons with several examples" in missing) is (unit == "example")


def test_a_ledger_of_clients_says_nothing_of_persons():
    promise = Promise(epsilon=1.0, delta=1e-5, unit="client", records_per_person=1)
    assert not any("Each person" in line for line in promise.covered())


def test_plain_words_are_about_the_unit():
    words = " ".join(Promise(epsilon=3.0, delta=1e-5, unit="client").plain())
    assert "your client" in words
    assert "953 of 1,000" in words


@pytest.mark.parametrize(
    ("caveat", "pitfall"),
    [
        ("Logged while training: train/loss. What such a metric takes ...", "P31"),
        ("ModelCheckpoint acts on 'train/loss', a metric of the training examples without noise", "P31"),
        (SWEEP_CAVEAT, "P32"),
        ("The noise was drawn from a fixed seed: whoever knows the seed can remove it. NOT PRIVATE.", "P25"),
        ("The run was resumed without its journal: steps taken after ...", "P26"),
        ("A person may be in up to 3 records, and epsilon is for one example", "P34"),
        ("Which records are one person's was decided by comparing all of them, without noise", "P34"),
        ("Something else.", None),
    ],
)
def test_caveats_have_the_number_of_their_pitfall(caveat, pitfall):
    assert pitfall_of(caveat) == pitfall


def test_p25_a_seeded_noise_voids_the_guarantee():
    with pytest.warns(SeededNoiseWarning):
        caveat = NoiseSource(seed=1).caveat
    assert voids(caveat)
    assert pitfall_of(caveat) == "P25"
    assert not voids(SWEEP_CAVEAT)


def test_a_large_delta_makes_no_guarantee_strong():
    said = " ".join(Promise(epsilon=0.5, delta=0.01, unit="example").plain())
    assert "strong guarantee" not in said
    assert "Delta is so large" in said
