"""The torchmetrics metrics: batches, processes, several attributes, and what they refuse."""

from __future__ import annotations

import itertools
import pickle

import fairlearn.metrics as fm
import pytest
import torch
from torchmetrics import MetricCollection

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness import GroupDisparity, GroupMetrics, GroupSample

GROUPS = 3


def _rows(seed=0, size=120, classes=2):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(size, classes, generator=generator).softmax(1)
    target = torch.randint(classes, (size,), generator=generator)
    return probs, target, torch.randint(GROUPS, (size,), generator=generator)


def _equal(first, second):
    assert list(first) == list(second)
    for name, values in first.items():
        torch.testing.assert_close(values, second[name], equal_nan=True)


@pytest.mark.parametrize("classes", [2, 4])
def test_batches_add_up_also_those_without_a_group(classes):
    probs, target, groups = _rows(classes=classes)
    order = groups.argsort(stable=True)  # the first batches are of one group
    whole, parts = (GroupMetrics(GROUPS, num_classes=classes) for _ in range(2))
    whole.update(probs[order], target[order], groups[order])
    for rows in order.split(7):
        parts.update(probs[rows], target[rows], groups[rows])
    parts.update(probs[:0], target[:0], groups[:0])
    _equal(parts.compute(), whole.compute())
    sample = GroupSample.of_rows(
        preds=probs.argmax(1), target=target, groups=groups, num_groups=GROUPS, num_classes=classes,
        probs=probs[:, 1] if classes == 2 else probs,
    )  # fmt: skip
    _equal(whole.compute(), sample.figures())


def _gathering(metrics):
    """A stand-in for the exchange between processes, for one metric of several: each state in turn, from all."""
    names = itertools.cycle(metrics[0]._reductions)
    snapshots = [
        {
            name: torch.cat(state).clone() if isinstance(state, list) and state else state
            for name, state in ((name, getattr(metric, name)) for name in metric._reductions)
        }
        for metric in metrics
    ]

    def gather(state, group=None):
        name = next(names)
        others = [snapshot[name] for snapshot in snapshots]
        # As over a wire: all of one type and number of dimensions.
        found = [state if isinstance(other, list) else other for other in others]
        assert len({(each.dtype, each.dim()) for each in found}) == 1
        return found

    return gather


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("empty", [None, 0, 1])
def test_processes_add_up_also_one_that_has_no_row(empty, classes):
    probs, target, groups = _rows(classes=classes)
    whole = GroupMetrics(GROUPS, num_classes=classes)
    ranks = [GroupMetrics(GROUPS, num_classes=classes) for _ in range(2)]
    for rank, metric in enumerate(ranks):
        if rank != empty:
            part = slice(rank, None, 2)
            metric.update(probs[part], target[part], groups[part])
            whole.update(probs[part], target[part], groups[part])
    gather = _gathering(ranks)
    for metric in ranks:
        with metric.sync_context(dist_sync_fn=gather, distributed_available=lambda: True):
            for name, view in metric.views().items():
                _equal(view.figures(), whole.views()[name].figures())
        assert metric.num_rows < whole.num_rows or empty is not None


def test_intersections_and_each_attribute():
    probs, target, race = _rows()
    sex = torch.randint(2, (len(target),), generator=torch.Generator().manual_seed(9))
    metric = GroupMetrics((2, GROUPS), names=("sex", "race"))
    metric.update(probs, target, torch.stack([sex, race], dim=1))
    found = metric.compute()
    for name, groups, count in (
        ("sex", sex, 2),
        ("race", race, GROUPS),
        ("sex x race", sex * GROUPS + race, 2 * GROUPS),
    ):
        alone = GroupMetrics(count)
        alone.update(probs, target, groups)
        _equal({key: found[f"{name}/{key}"] for key in alone.compute()}, alone.compute())


@pytest.mark.parametrize(
    ("preds", "options"),
    [
        (torch.tensor([0.8, 0.5, 0.1]), {}),
        (torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]), {}),
        (torch.tensor([1.4, 0.0, -2.0]), {"logits": True}),
        (torch.tensor([[0.0, 1.4], [3.0, 3.0], [2.0, 0.0]]), {"logits": True}),
        (torch.tensor([[0.8], [0.5], [0.1]]), {}),
        (torch.tensor([0.8, 0.5, 0.1], dtype=torch.bfloat16), {}),
        (torch.tensor([True, False, False]), {"scores": False}),
        (torch.tensor([0.8, 0.75, 0.1]), {"threshold": 0.75}),
        (torch.tensor([[0.2, 0.8], [0.25, 0.75], [0.9, 0.1]]), {"threshold": 0.75}),
    ],
    ids=["probs", "two columns", "logit", "logits", "column", "half", "bool", "threshold", "threshold of columns"],
)
def test_predictions_in_every_form(preds, options):
    """The second row is on the threshold, which is not above it."""
    metric = GroupMetrics(1, **options)
    metric.update(preds, torch.tensor([1, 1, 0]), torch.zeros(3, dtype=torch.int64))
    assert metric.counts.tolist() == [[[1, 0], [1, 1]]]
    assert ("auroc" in metric.compute()) is metric.scores


@pytest.mark.parametrize("kind", ["difference", "ratio"])
@pytest.mark.parametrize("criterion", ["demographic_parity", "equal_opportunity", "equalized_odds"])
def test_a_disparity_is_the_figure_of_fairlearn(criterion, kind):
    probs, target, groups = _rows()
    metric = GroupDisparity(GROUPS, criterion=criterion, kind=kind, method="to_overall")
    for rows in torch.arange(len(target)).split(50):
        metric.update(probs[rows], target[rows], groups[rows])
    reference = getattr(fm, f"{criterion}_{kind}")(
        target.numpy(), probs.argmax(1).numpy(), sensitive_features=groups.numpy(), method="to_overall"
    )
    assert metric.compute().item() == pytest.approx(reference, abs=1e-12)
    assert metric.compute().shape == ()


def test_forward_resets_and_collections_work():
    probs, target, groups = _rows()
    collection = MetricCollection({
        "parity": GroupDisparity(GROUPS, criterion="demographic_parity"),
        "odds": GroupDisparity(GROUPS, criterion="equalized_odds"),
    })  # fmt: skip
    first = collection(probs[:60], target[:60], groups[:60])
    collection(probs[60:], target[60:], groups[60:])
    whole = collection.compute()
    collection.reset()
    again = collection(probs[:60], target[:60], groups[:60])
    assert again == first
    fresh = GroupDisparity(GROUPS, criterion="equalized_odds")
    fresh.update(probs, target, groups)
    assert whole["odds"] == fresh.compute()
    assert pickle.loads(pickle.dumps(fresh)).compute() == fresh.compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 0}, "num_groups must be a whole number >= 1, got 0"),
        ({"num_groups": ()}, "one for each attribute, got none"),
        ({"num_groups": (2, -1)}, "num_groups must be a whole number >= 1, got -1"),
        ({"num_groups": (2, 2), "names": ("a", "a")}, "names must be one name for each of 2 attributes"),
        ({"num_classes": 1}, "num_classes must be a whole number >= 2, got 1"),
        ({"positive_class": 2}, "positive_class must be below num_classes=2, got 2"),
        ({"calibration_bins": 0}, "calibration_bins"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        GroupMetrics(**({"num_groups": 2} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "parity"}, "criterion must be one of 'demographic_parity'"),
        ({"criterion": "equalized_odds", "kind": "gap"}, "kind must be one of"),
        ({"criterion": "equalized_odds", "method": "x"}, "method must be one of"),
        ({"criterion": "equalized_odds", "min_group_size": -1}, "min_group_size"),
    ],
    ids=str,
)
def test_bad_arguments_of_a_disparity_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        GroupDisparity(2, **options)


GOOD = {"preds": torch.tensor([0.5, 0.7]), "target": torch.tensor([0, 1]), "groups": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": torch.tensor([0, 2])}, r"groups must be in 0 to 1 \(num_groups=2\), got 2"),
        ({"groups": torch.tensor([[0, 1], [0, 0]])}, "one column for each of 1 attributes"),
        ({"groups": torch.tensor([0])}, "one value per row"),
        ({"target": torch.tensor([0, 2])}, "target must be in 0 to 1"),
        ({"preds": torch.tensor([0, 1])}, "AUROC, log-loss and calibration error need probabilities"),
        ({"preds": torch.tensor([-1.0, 3.0])}, "probs must be probabilities.*got -1.*If these are logits"),
        ({"preds": torch.tensor([[0.2, 0.2], [0.5, 0.5]])}, "got 0.4 as a sum"),
        ({"preds": torch.tensor([0.1, float("nan")])}, "probs have NaN in 1 rows"),
        ({"preds": torch.full((2, 3), 1 / 3)}, "num_classes=2, but the predictions have 3 classes"),
        ({"preds": torch.full((2, 3, 4), 0.5)}, r"must have shape \(N,\) or \(N, C\)"),
    ],
    ids=["group", "columns", "length", "target", "classes", "logits", "sum", "nan", "width", "shape"],
)
def test_bad_batches_are_named_and_not_counted(changes, message):
    metric = GroupMetrics(2)
    with pytest.raises(ConfigurationError, match=message):
        metric.update(**(GOOD | changes))
    assert metric.num_rows == 0
    assert metric.kept_scores == []


def test_classes_beyond_num_classes_are_named():
    metric = GroupMetrics(1, scores=False)
    with pytest.raises(ConfigurationError, match=r"preds must be in 0 to 1 \(num_classes=2\), got 2"):
        metric.update(torch.tensor([2]), torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(ConfigurationError, match="threshold must be in 0 to 1, got 2"):
        GroupMetrics(1, threshold=2).update(torch.tensor([0.3]), torch.tensor([1]), torch.tensor([0]))
