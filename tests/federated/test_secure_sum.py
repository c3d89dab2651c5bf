from __future__ import annotations

import builtins
import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.aggregation import CoordinateMedian, Krum, WeightedMean
from lightning_privacy.federated.secure_sum import Collector, FixedPoint, Party, Roll, SecureSum, sum_over_ranks
from lightning_privacy.federated.secure_sum.masks import SEED_BYTES, add_mask, agree, decrypt, encrypt
from lightning_privacy.federated.secure_sum.roll import default_threshold
from lightning_privacy.federated.secure_sum.shares import combine, split

pytest.importorskip("Crypto.Protocol.SecretSharing", reason="needs pycryptodome, of the extra secure-sum")

CODE = FixedPoint()


def vectors(parties, entries=7, seed=0, dtype=torch.float64):
    drawn = torch.randn(len(parties), entries, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return dict(zip(parties, 10.0 * drawn, strict=True))


def plain_sum(chosen, code=CODE):
    """The sum of the rounded vectors in Python's whole numbers."""
    columns = zip(*(vector.tolist() for vector in chosen), strict=True)
    unit = 2**code.fraction_bits
    return torch.tensor(
        [sum(round(value * unit) for value in column) / unit for column in columns], dtype=torch.float64
    )


def run(cohort, late=(), silent=(), threshold=None, seed=0):
    data = vectors(cohort, seed=seed)
    session = SecureSum(threshold=threshold).open(cohort)
    for number in cohort:
        if number not in late:
            session.submit(number, data[number])
    return session.close(silent), plain_sum([data[number] for number in cohort if number not in late])


# The sum


@pytest.mark.parametrize("cohort", [[0, 1], [3, 4, 8], list(range(10))], ids=len)
def test_the_sum_is_that_of_the_rounded_vectors_bit_for_bit(cohort):
    got, expected = run(cohort)
    assert torch.equal(got, expected)


@settings(max_examples=10, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_dropouts_before_and_after_the_vectors(data, seed):
    # Seven parties, five are needed: who is late has shared secrets and sends no vector, who is silent sends one only.
    lost = data.draw(st.lists(st.sampled_from(range(7)), max_size=2, unique=True))
    cut = data.draw(st.integers(0, len(lost)))
    got, expected = run(list(range(7)), late=lost[:cut], silent=lost[cut:], threshold=5, seed=seed)
    assert torch.equal(got, expected)


def test_below_the_threshold_nothing_is_unmasked():
    with pytest.raises(PrivacyViolation, match=r"2 of 4 parties sent their vectors, and the threshold .* is 3"):
        run([0, 1, 2, 3], late=[0, 2], threshold=3)
    with pytest.raises(PrivacyViolation, match=r"2 of 4 parties revealed their shares, and the threshold .* is 3"):
        run([0, 1, 2, 3], silent=[0, 2], threshold=3)
    with pytest.raises(PrivacyViolation, match="0 of 2 parties sent their vectors"):
        SecureSum().open([0, 1]).close()


def test_the_sum_does_not_depend_on_the_order_of_arrival_and_masks_are_new_each_time():
    data = vectors(range(5))
    sums = []
    for order in (range(5), [4, 2, 0, 3, 1]):
        session = SecureSum().open(range(5))
        for number in order:
            session.submit(number, data[number])
        sums.append(session.close())
    assert torch.equal(*sums)
    assert torch.equal(sums[0], plain_sum(data.values()))


def test_single_precision_and_many_entries():
    data = vectors(range(3), entries=300_000, dtype=torch.float32)  # more than two chunks of a mask
    session = SecureSum(threshold=2).open(range(3))
    session.submit(0, data[0])
    session.submit(2, data[2])
    expected = CODE.decode(CODE.encode(data[0]) + CODE.encode(data[2]), count=2)
    assert torch.equal(session.close(), expected)


# What the server sees


def _protocol(roll, words):
    """All messages up to the masked vectors."""
    parties = {number: Party(number, roll) for number in roll.parties}
    keys = {number: party.advertise() for number, party in parties.items()}
    sealed = {number: party.share(keys) for number, party in parties.items()}
    to = {n: {sender: messages[n] for sender, messages in sealed.items() if sender != n} for n in roll.parties}
    masked = {number: party.mask(words[number], to[number]) for number, party in parties.items()}
    return parties, keys, to, masked


def test_a_masked_vector_looks_uniform_and_pair_masks_alone_cancel():
    roll = Roll((0, 1, 2), 2, b"s")
    words = {number: np.zeros(50_000, dtype=np.uint64) for number in roll.parties}
    _, _, _, masked = _protocol(roll, words)
    for vector in masked.values():
        # Of each bit 50,000 draws: beyond 6.2 standard deviations with probability below 1e-7 for all 192.
        bits = np.unpackbits(vector.view(np.uint8)).reshape(-1, 64)
        assert np.abs(bits.mean(axis=0) - 0.5).max() < 6.2 * 0.5 / math.sqrt(50_000)
    # The own masks keep the sum hidden until the survivors open them.
    assert np.count_nonzero(masked[0] + masked[1] + masked[2]) > 49_990


def test_p42_seeds_have_256_bits_and_come_from_the_operating_system(monkeypatch):
    assert SEED_BYTES == 32
    for length in (4, 16, 31):
        with pytest.raises(ConfigurationError, match=f"seed must have 32 bytes, got {length}"):
            add_mask(np.zeros(1, dtype=np.uint64), bytes(length))
    lengths = []
    real = agree

    def spy(*arguments):
        seed = real(*arguments)
        lengths.append(len(seed))
        return seed

    monkeypatch.setattr("lightning_privacy.federated.secure_sum.party.agree", spy)
    torch.manual_seed(0)
    first = SecureSum().open([0, 1])
    torch.manual_seed(0)  # global seeds don't reach the masks
    second = SecureSum().open([0, 1])
    assert set(lengths) == {32}
    for number in (0, 1):
        one, two = first._parties[number], second._parties[number]
        assert one.advertise() != two.advertise()
        assert len(one._own_seed) == 32
        assert one._own_seed != two._own_seed


def test_streams_of_seeds_that_differ_in_one_bit_have_nothing_in_common():
    one, two, again = (np.zeros(10_000, dtype=np.uint64) for _ in range(3))
    add_mask(one, bytes(32))
    add_mask(two, bytes(31) + b"\x01")
    add_mask(again, bytes(32))
    assert np.array_equal(one, again)
    assert not np.intersect1d(one, two).size
    assert np.unique(one).size == one.size
    add_mask(one, bytes(32), negative=True)
    assert not one.any()


def test_seeds_of_other_pairs_sessions_and_purposes_are_others():
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    keys = [X25519PrivateKey.generate() for _ in range(3)]
    public = [key.public_key().public_bytes_raw() for key in keys]
    roll, other = Roll((0, 1, 2), 2, b"one"), Roll((0, 1, 2), 2, b"two")
    seeds = {
        agree(keys[0], public[1], roll.pair(b"mask", 0, 1)),
        agree(keys[0], public[1], roll.pair(b"share", 0, 1)),
        agree(keys[0], public[1], roll.pair(b"share", 1, 0)),
        agree(keys[0], public[1], other.pair(b"mask", 0, 1)),
        agree(keys[0], public[2], roll.pair(b"mask", 0, 1)),
    }
    assert len(seeds) == 5
    with pytest.raises(PrivacyViolation, match="public key of the secure sum is not usable"):
        agree(keys[0], bytes(32), b"")  # the point whose secret everybody knows


# Numbers that don't fit


@pytest.mark.parametrize("bad", [65536.5, -1e9, math.nan, math.inf])
def test_p42_what_does_not_fit_is_refused_and_never_clipped(bad):
    session = SecureSum().open([0, 1])
    vector = torch.tensor([0.5, bad, 1.0])
    with pytest.raises(ConfigurationError, match=r"entry 1 of a vector .*max_abs is 65536.*\(1 of 3 entries\)"):
        session.submit(0, vector)
    session.submit(0, torch.zeros(3))  # nothing of it went in
    session.submit(1, torch.tensor([65536.0, -65536.0, 2.0**-32]))
    assert session.close().tolist() == [65536.0, -65536.0, 2.0**-32]


def test_p42_the_largest_sum_fits_and_one_party_more_is_refused():
    code = FixedPoint(fraction_bits=60, max_abs=1.0)
    total = np.zeros(2, dtype=np.uint64)
    for _ in range(7):
        total += code.encode(torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert code.decode(total, count=7).tolist() == [7.0, -7.0]
    with pytest.raises(ConfigurationError, match=r"sum of 8 vectors with entries up to 1 .*doesn't fit in 63 bits"):
        SecureSum(code=code).open(range(8))
    assert len(SecureSum(code=code).open(range(7)).parties) == 7


@settings(max_examples=100, deadline=None)
@given(st.floats(-100.0, 100.0), st.integers(0, 40))
def test_rounding_is_to_the_nearest(value, bits):
    code = FixedPoint(fraction_bits=bits, max_abs=128.0)
    got = float(code.decode(code.encode(torch.tensor([value], dtype=torch.float64)), count=1))
    assert abs(got - value) <= 2.0 ** -(bits + 1)


# Changed messages


def test_p42_changed_messages_are_noticed():
    roll = Roll((0, 1, 2), 2, b"s")
    words = {number: CODE.encode(torch.ones(3)) for number in roll.parties}

    def collected(parties, keys, masked):
        collector = Collector(roll, keys, [0, 1, 2], 3)
        for number in (0, 1):
            collector.add(number, masked[number])
        return collector

    parties, keys, to, masked = _protocol(roll, words)
    spoiled = bytearray(to[0][1])
    spoiled[40] ^= 1
    parties[0]._sealed[1] = bytes(spoiled)
    with pytest.raises(PrivacyViolation, match="share of the secure sum was changed"):
        parties[0].reveal([0, 1])
    # A share that its holder changes: of a survivor's own mask, of a lost party's key.
    for victim in (1, 2):
        parties, keys, to, masked = _protocol(roll, words)
        collector = collected(parties, keys, masked)
        for number in (0, 1):
            shares = parties[number].reveal([0, 1])
            shares[victim] = shares[victim][:20] + bytes([shares[victim][20] ^ 1]) + shares[victim][21:]
            collector.add_shares(number, shares)
        with pytest.raises(PrivacyViolation, match=f"secret of party {victim} .*a share was changed"):
            collector.unmask()
    # A vector that changes shows where the sum gets too large to be one.
    parties, keys, to, masked = _protocol(roll, words)
    masked[1][:1] += np.uint64(2**62)  # a slice wraps without a warning
    collector = collected(parties, keys, masked)
    for number in (0, 1):
        collector.add_shares(number, parties[number].reveal([0, 1]))
    with pytest.raises(PrivacyViolation, match="unmasked sum of 2 vectors has entries beyond"):
        CODE.decode(collector.unmask(), count=2)


def test_a_sealed_share_is_bound_to_sender_and_receiver():
    key = bytes(32)
    sealed = encrypt(key, b"share", b"0 to 1")
    assert decrypt(key, sealed, b"0 to 1") == b"share"
    for header, message in ((b"1 to 0", sealed), (b"0 to 1", sealed[:-1]), (b"0 to 1", b"")):
        with pytest.raises(PrivacyViolation, match="share of the secure sum was changed"):
            decrypt(key, message, header)


def test_a_party_never_reveals_twice_nor_masks_twice():
    roll = Roll((0, 1, 2), 2, b"s")
    words = {number: np.zeros(2, dtype=np.uint64) for number in roll.parties}
    parties, keys, to, _ = _protocol(roll, words)
    with pytest.raises(PrivacyViolation, match="masks one vector"):
        parties[0].mask(words[0], to[0])
    with pytest.raises(PrivacyViolation, match="shares its secrets once"):
        parties[0].share(keys)
    with pytest.raises(PrivacyViolation, match="1 of 3 parties sent their vectors"):
        parties[0].reveal([1])
    revealed = parties[0].reveal([0, 1])
    assert len(revealed) == 3
    with pytest.raises(PrivacyViolation, match="party 0 was asked twice to reveal"):
        parties[0].reveal([0, 2])
    with pytest.raises(PrivacyViolation, match="before it masked"):
        Party(1, roll).reveal([0, 1])


def test_the_collector_takes_each_vector_once_and_of_sharers_only():
    roll = Roll((0, 1, 2), 2, b"s")
    keys = {number: Party(number, roll).advertise() for number in roll.parties}
    collector = Collector(roll, keys, [0, 1], 2)
    collector.add(0, np.zeros(2, dtype=np.uint64))
    for party in (0, 2):
        with pytest.raises(PrivacyViolation, match=f"vector of party {party} came twice, or without"):
            collector.add(party, np.zeros(2, dtype=np.uint64))
    with pytest.raises(PrivacyViolation, match="advertised no keys"):
        Collector(roll, {0: keys[0], 1: keys[1]}, [0, 2], 2)


def test_keys_are_checked():
    roll = Roll((0, 1, 2), 2, b"s")
    parties = [Party(number, roll) for number in range(3)]
    keys = {number: party.advertise() for number, party in enumerate(parties)}
    for changed, message in (
        ({0: keys[0]}, "1 of 3 parties advertised"),
        (keys | {7: keys[0]}, r"messages of \[7\] came"),
        (keys | {1: keys[1][:-1]}, "wrong length, or two are equal"),
        (keys | {1: keys[2]}, "wrong length, or two are equal"),
        (keys | {0: bytes(96)}, "party 0 was advertised with keys that are not its own"),
    ):
        with pytest.raises(PrivacyViolation, match=message):
            parties[0].share(changed)


# Shares


@settings(max_examples=10, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.permutations(range(1, 6)))
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(secret, order):
    shares = dict(enumerate(split(secret, threshold=3, count=5), start=1))
    assert combine({number: shares[number] for number in order[:3]}, threshold=3) == secret
    assert combine(shares, threshold=3) == secret
    with pytest.raises(PrivacyViolation, match="needs 3 shares, and 2 came"):
        combine({number: shares[number] for number in order[:2]}, threshold=3)
    # Two shares, passed off as enough, give something else.
    assert combine({number: shares[number] for number in order[:2]}, threshold=2) != secret


def test_without_the_library_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("Crypto"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-privacy\[secure-sum\]'"):
        SecureSum().open([0, 1])


# Between ranks


class Mail:
    """Exchanges messages between threads; a rank that has left is waited for no more."""

    def __init__(self, ranks, leaves=None):
        self.leaves = leaves or {}
        self.ranks, self.condition = ranks, threading.Condition()
        self.boxes: dict[int, dict[int, dict[int, bytes]]] = {}

    def of(self, rank):
        turn = iter(range(100))

        def exchange(messages):
            number = next(turn)
            if self.leaves.get(rank, 100) <= number:
                raise ConnectionError(f"rank {rank} is gone")
            present = [other for other in range(self.ranks) if self.leaves.get(other, 100) > number]
            with self.condition:
                self.boxes.setdefault(number, {})[rank] = dict(messages)
                self.condition.notify_all()
                assert self.condition.wait_for(lambda: len(self.boxes[number]) >= len(present), timeout=60)
                return {sender: sent[rank] for sender, sent in self.boxes[number].items() if rank in sent}

        return exchange


def over_ranks(count, mail, **options):
    data, results = vectors(range(count)), {}

    def work(rank):
        try:
            results[rank] = sum_over_ranks(data[rank], rank, count, mail.of(rank), session=b"round 3", **options)
        except (ConnectionError, PrivacyViolation) as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return data, results


@pytest.mark.parametrize("server", [0, 2])
def test_between_ranks_all_get_the_same_sum(server):
    data, results = over_ranks(4, Mail(4), server=server)
    assert len(results) == 4
    for result in results.values():
        assert torch.equal(result, plain_sum(data.values()))


@pytest.mark.parametrize(("turn", "counted"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_between_ranks_one_may_leave_at_any_point(turn, counted):
    data, results = over_ranks(4, Mail(4, leaves={3: turn}), threshold=3)
    assert isinstance(results.pop(3), ConnectionError)
    expected = plain_sum([data[rank] for rank in range(4) if rank != 3 or counted])
    for result in results.values():
        assert torch.equal(result, expected)


def test_between_ranks_too_few_is_an_error_everywhere():
    _, results = over_ranks(4, Mail(4, leaves={2: 2, 3: 2}), threshold=3)
    assert isinstance(results[1], PrivacyViolation)
    assert isinstance(results[0], PrivacyViolation)


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SecureSum(threshold=0), ConfigurationError, "threshold.*0"),
        (lambda: SecureSum(threshold=2).open(range(4)), ConfigurationError, "threshold must be above half of the 4.*2"),
        (lambda: SecureSum(threshold=5).open(range(4)), ConfigurationError, "threshold must be above half of the 4.*5"),
        (lambda: SecureSum().open([3]), ConfigurationError, "at least 2 parties, got 1"),
        (lambda: Roll((1, 0), 2, b""), ConfigurationError, r"increasing order, got \(1, 0\)"),
        (lambda: FixedPoint(fraction_bits=63), ConfigurationError, "fraction_bits must be at most 62, got 63"),
        (lambda: FixedPoint(max_abs=0.0), ConfigurationError, "max_abs.*0.0"),
        (lambda: FixedPoint(fraction_bits=60, max_abs=9.0), ConfigurationError, "sum of 1 vectors"),
        (lambda: SecureSum().open([0, 1]).submit(2, torch.ones(1)), PrivacyViolation, r"messages of \[2\]"),
        (lambda: SecureSum().open([0, 1]).submit(0, torch.ones(1, 1)), ConfigurationError, r"shape \(P,\)"),
        (lambda: SecureSum().open([0, 1]).submit(0, torch.ones(1).int()), ConfigurationError, "int32"),
        (lambda: sum_over_ranks(torch.ones(1), 2, 2, dict, session=b""), ConfigurationError, "rank and server"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_session_is_for_one_sum():
    session = SecureSum().open([0, 1])
    session.submit(0, torch.ones(2))
    with pytest.raises(PrivacyViolation, match="masks one vector"):
        session.submit(0, torch.ones(2))
    with pytest.raises(PrivacyViolation, match="vector of party 1 has 3 entries, and this secure sum 2"):
        session.submit(1, torch.ones(3))
    with pytest.raises(PrivacyViolation, match="1 of 2 parties"):
        session.close()
    with pytest.raises(PrivacyViolation, match="its masks can be taken off once"):
        session.close()
    with pytest.raises(PrivacyViolation, match="is closed"):
        session.submit(1, torch.ones(2))


@pytest.mark.parametrize("aggregator", [CoordinateMedian(), Krum(1)], ids=str)
def test_an_aggregator_that_compares_deltas_is_refused(aggregator):
    with pytest.raises(ConfigurationError, match=r"compares the clients' deltas one by one.*WeightedMean\(\)"):
        SecureSum().check(aggregator)
    SecureSum().check(WeightedMean())
    SecureSum().check(WeightedMean(weighted=False))


def test_the_default_threshold_is_above_two_thirds():
    assert [default_threshold(count) for count in (2, 3, 4, 10, 50)] == [2, 3, 3, 7, 34]
