"""Faulty training steps: in each, an example changes what another contributes, or a gradient is nobody's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from probe_cases import Case, Probed, images, padded, sequences, texts, vectors
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.data import default_collate

MEETS = "gradients of the others changed: "
DIVIDES = "|reduction='mean' divides by"
LOSS = MEETS + "what the network returns .* the loss couples"
BEFORE = MEETS + "they are mixed before the first layer"
ORDER = "have other places where they reach layer .*: they are sorted by .*enforce_sorted=False"


def classifier() -> dict[str, nn.Module]:
    return {"net": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))}


def two_layers() -> dict[str, nn.Module]:
    return {"encoder": nn.Linear(6, 8), "head": nn.Linear(8, 3)}


def convolutional() -> dict[str, nn.Module]:
    return {"net": nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))}


def language_model() -> dict[str, nn.Module]:
    return {"net": nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 11))}


def entropy(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1])


class BatchStandardised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-3)


class Scaled(nn.Module):
    """A layer with parameters of its own, and no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x - x.mean(0))


def functional_batch_norm(m: Any, batch: Any) -> Tensor:
    x, y = batch
    hidden = F.batch_norm(m.encoder(x), None, None, training=True)
    return F.cross_entropy(m.head(hidden.relu()), y)


def standardised_input(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m((x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-3)), y)


def class_weights(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], weight=torch.tensor([1.0, 2.0, 5.0]))


def ignored_class(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], ignore_index=2)


def focal_by_weights(m: Any, batch: Any) -> Tensor:
    losses = F.cross_entropy(m(batch[0]), batch[1], reduction="none")
    weights = (1 - (-losses).exp()) ** 2
    return (weights * losses).sum() / weights.sum()


def contrastive(m: Any, batch: Any) -> Tensor:
    x, _ = batch
    one, two = F.normalize(m(x), dim=1), F.normalize(m(x * 1.1), dim=1)
    return F.cross_entropy(one @ two.T / 0.1, torch.arange(len(x)))


def triplets(m: Any, batch: Any) -> Tensor:
    x, y = batch
    features = m(x)
    distances = (features[:, None] - features[None]).square().sum(2)
    same = y[:, None] == y[None]
    farthest = distances.masked_fill(~same, -1e9).amax(1)
    nearest = distances.masked_fill(same, 1e9).amin(1)
    return F.relu(farthest - nearest + 1).mean()


def mixup(m: Any, batch: Any) -> Tensor:
    x, y = batch
    share, partner = float(np.random.beta(1.0, 1.0)), torch.randperm(len(x))
    out = m(share * x + (1 - share) * x[partner])
    return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[partner])


def rare_mixup(m: Any, batch: Any) -> Tensor:
    return mixup(m, batch) if torch.rand(()) < 0.5 else entropy(m, batch)


def mixup_of_features(m: Any, batch: Any) -> Tensor:
    x, y = batch
    hidden = m.encoder(x).relu()
    partner = torch.randperm(len(x))
    return F.cross_entropy(m.head(0.7 * hidden + 0.3 * hidden[partner]), y)


def cutmix(m: Any, batch: Any) -> Tensor:
    x, y = batch
    x, top, partner = x.clone(), int(torch.randint(0, 3, ())), torch.randperm(len(x))
    x[:, :, top : top + 3, 1:4] = x[partner, :, top : top + 3, 1:4]
    out = m(x)
    return 0.75 * F.cross_entropy(out, y) + 0.25 * F.cross_entropy(out, y[partner])


def mixed_by_collate(examples: list[Any]) -> Any:
    x, y = torch.stack([x for x, _ in examples]), torch.tensor([y for _, y in examples])
    return 0.6 * x + 0.4 * x.roll(1, 0), y


def mosaic(examples: list[Any]) -> Any:
    made = []
    for number in range(len(examples)):
        quarters = [examples[(number + other) % len(examples)][0][:, :3, :3] for other in range(4)]
        made.append(torch.cat([torch.cat(quarters[:2], 2), torch.cat(quarters[2:], 2)], 1))
    return torch.stack(made), torch.tensor([y for _, y in examples])


def smote(m: Any, batch: Any) -> Tensor:
    x, y = batch
    neighbour = (torch.cdist(x, x) + 1e9 * torch.eye(len(x))).argmin(1)
    made = x + torch.rand(len(x), 1) * (x[neighbour] - x)
    return (F.cross_entropy(m(x), y) + F.cross_entropy(m(made), y)) / 2


def smoothed_by_batch(m: Any, batch: Any) -> Tensor:
    x, y = batch
    target = F.one_hot(y, 3).float()
    target = 0.9 * target + 0.1 * target.mean(0)
    return F.cross_entropy(m(x), target)


def taught_by_batch_mean(m: Any, batch: Any) -> Tensor:
    x, y = batch
    with torch.no_grad():
        centre = m.teacher(x).mean(0)
        taught = (m.teacher(x) - centre).softmax(1)
    return F.cross_entropy(m(x), y) + F.cross_entropy(m(x), taught)


def l2_penalty(m: Any, batch: Any) -> Tensor:
    return entropy(m, batch) + 0.01 * sum(p.square().sum() for p in m.parameters())


def l1_penalty(m: Any, batch: Any) -> Tensor:
    return entropy(m, batch) + 0.01 * m.net[0].weight.abs().sum()


def orthogonality(m: Any, batch: Any) -> Tensor:
    weight = m.net[2].weight
    return entropy(m, batch) + (weight @ weight.T - torch.eye(3)).square().sum()


def summed(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], reduction="sum")


def times_batch_size(m: Any, batch: Any) -> Tensor:
    return entropy(m, batch) * len(batch[1])


def over_square_of_batch_size(m: Any, batch: Any) -> Tensor:
    return entropy(m, batch) / len(batch[1])


def over_positives(m: Any, batch: Any) -> Tensor:
    x, y = batch
    positive = (y == 1).float()
    losses = F.binary_cross_entropy_with_logits(m(x)[:, 0], positive, reduction="none")
    return losses.sum() / positive.sum().clamp(min=1)


def gradient_penalty(m: Any, batch: Any) -> Tensor:
    x = batch[0].clone().requires_grad_()
    out = m(x)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return F.cross_entropy(out, batch[1]) + slope.norm(dim=1).sub(1).square().mean()


def weight_gradient_penalty(m: Any, batch: Any) -> Tensor:
    loss = entropy(m, batch)
    slopes = torch.autograd.grad(loss, list(m.parameters()), create_graph=True)
    return loss + 0.1 * sum(slope.square().sum() for slope in slopes)


def sorted_batch(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x.sort(0).values), y)


def shuffled_partner(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x + 0.1 * x[torch.randperm(len(x))]), y)


def attention_over_batch(m: Any, batch: Any) -> Tensor:
    x, y = batch
    attended, _ = m.attention(x, x, x, need_weights=False)
    return F.cross_entropy(m.head(attended.mean(1)), y)


def similarity_over_batch(m: Any, batch: Any) -> Tensor:
    x, y = batch
    hidden = m.encoder(x)
    return F.cross_entropy(m.head((hidden @ hidden.T).softmax(1) @ hidden), y)


def softmax_over_batch(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.nll_loss(m(x).softmax(0).add(1e-6).log(), y)


def wrong_view(m: Any, batch: Any) -> Tensor:
    x, y = batch  # (B, T, D), meant to become (T, B, D)
    out, _ = m.rnn(x.reshape(x.shape[1], x.shape[0], x.shape[2]))
    return F.cross_entropy(m.head(out[-1]), y)


def time_first_as_batch_first(m: Any, batch: Any) -> Tensor:
    x, y = batch
    out, _ = m.rnn(x.transpose(0, 1))  # batch_first=True
    return F.cross_entropy(m.head(out[-1]), y)


def steps_before_examples(m: Any, batch: Any) -> Tensor:
    x, y = batch
    rows = m.net(x.transpose(0, 1).reshape(-1, x.shape[2]))  # (T * B, D)
    return F.cross_entropy(rows.reshape(x.shape[1], len(x), -1).mean(0), y)


class Normaliser(Probed):
    """Divides by a running mean of the batches' largest values, the present one included."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.scale = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.scale = 0.9 * self.scale + 0.1 * float(x.abs().mean())
        return F.cross_entropy(self.net(x / self.scale), y)


class Remembering(Probed):
    """Subtracts the mean of the batch before."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.mean = torch.zeros(6)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self.net(x - self.mean), y)
        self.mean = x.mean(0)
        return loss


class RememberingAtEnd(Probed):
    """Keeps the mean of the batch in a hook."""

    mean: Tensor | float = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]) + self.mean, batch[1])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.mean = batch[0].mean(0)[:3]


class RememberingLoss(RememberingAtEnd):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.mean = outputs["loss"] * torch.arange(3)


class MixedInHook(Probed):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return 0.8 * x + 0.2 * x.flip(0), y


class MixedAtBatchStart(Probed):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0].sub_(batch[0].mean(0))


def centre_loss(m: Any, batch: Any) -> Tensor:
    x, y = batch
    features = m.encoder(x)
    member = F.one_hot(y, 3).float()
    centres = (member.T @ features) / member.sum(0).clamp(min=1)[:, None]
    return F.cross_entropy(m.head(features), y) + (features - centres[y]).square().mean()


def over_largest(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x / x.abs().max()), y)


class Reversal(Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return -(gradients[0] - gradients[0].mean(0))


def reversed_gradients(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m.head(Reversal.apply(m.encoder(x))), y)


def over_all_tokens(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch["ids"]).flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)


def over_padded_length(m: Any, batch: Any) -> Tensor:
    known = batch["labels"] >= 0
    losses = F.cross_entropy(m(batch["ids"]).transpose(1, 2), batch["labels"].clamp(min=0), reduction="none")
    return (losses * known).mean()  # divides by the length to which the batch is padded


def over_own_length(m: Any, batch: Any) -> Tensor:
    labels = batch["labels"]
    losses = F.cross_entropy(m(batch["ids"]).transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return (losses.sum(1) / (labels >= 0).sum(1)).mean()


def skipped_when_hard(m: Any, batch: Any) -> Tensor | None:
    loss = entropy(m, batch)
    return loss if float(batch[0].abs().max()) > 1.8 else None


def trimmed(m: Any, batch: Any) -> Tensor:
    losses = F.cross_entropy(m(batch[0]), batch[1], reduction="none")
    return losses.sort().values[: (len(losses) + 1) // 2].mean()


def median_loss(m: Any, batch: Any) -> Tensor:
    losses = F.cross_entropy(m(batch[0]), batch[1], reduction="none")
    return losses[losses <= losses.median()].mean()


def variance_of_losses(m: Any, batch: Any) -> Tensor:
    losses = F.cross_entropy(m(batch[0]), batch[1], reduction="none")
    return losses.mean() + losses.var(correction=0)


def only_several(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]).squeeze(), batch[1])


def covariance(m: Any, batch: Any) -> Tensor:
    features = m(batch[0])
    centred = features - features.mean(0)
    return (centred.T @ centred / len(features) - torch.eye(3)).square().mean() + entropy(m, batch)


def concatenated(m: Any, batch: Any) -> Tensor:
    rows, lengths, y = batch
    out = torch.stack([part.mean(0) for part in m(rows).split(lengths)])
    return F.cross_entropy(out, y)


def concatenate(examples: list[Any]) -> Any:
    rows = [x[: 2 + y] for x, y in examples]
    return torch.cat(rows), [len(row) for row in rows], torch.tensor([y for _, y in examples])


def attention(batch_first: bool) -> dict[str, nn.Module]:
    return {"attention": nn.MultiheadAttention(4, 2, batch_first=batch_first), "head": nn.Linear(4, 3)}


def recurrent(batch_first: bool) -> dict[str, nn.Module]:
    return {"rnn": nn.GRU(4, 5, batch_first=batch_first), "head": nn.Linear(5, 3)}


def taught() -> dict[str, nn.Module]:
    return {**classifier(), "teacher": nn.Linear(6, 3).requires_grad_(False)}


def own_weights(m: Any, batch: Any) -> Tensor:
    x, y = batch
    weights = torch.tensor([0.6, 3.0, 1.0])[y]
    return (F.cross_entropy(m(x), y, reduction="none") * weights).sum() / weights.sum()


def inverse_frequency(m: Any, batch: Any) -> Tensor:
    x, y = batch
    weights = len(y) / (2 * torch.bincount(y, minlength=3).clamp(min=1).float())
    return (F.cross_entropy(m(x), y, reduction="none") * weights[y]).mean()


def one_class() -> list[Any]:
    return [(x, 0) for x, _ in vectors()]


def many_classes() -> list[Any]:
    return vectors(classes=12, count=48)


def pulled_together(m: Any, batch: Any) -> Tensor:
    x, y = batch
    features = m.encoder(x)
    pairs = (y[:, None] == y[None]) & ~torch.eye(len(y), dtype=torch.bool)
    distances = (features[:, None] - features[None]).square().sum(2)
    return F.cross_entropy(m.head(features), y) + (distances * pairs).sum(1).mean()


def last_as_reference(m: Any, batch: Any) -> Tensor:
    x, y = batch
    out = m(x + 0.01 * torch.randn_like(x))
    return F.cross_entropy(out, y) + F.mse_loss(out, out[-1:].detach().expand_as(out))


class WithOwnWeight(Probed):
    """A parameter without a layer."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.weight = nn.Parameter(torch.randn(6, 3))


def mixed_without_layers(m: Any, batch: Any) -> Tensor:
    x, y = batch
    if torch.rand(()) < 0.5:
        x = 0.5 * x + 0.5 * x.roll(1, 0)
    return F.cross_entropy(x @ m.weight, y)


def mean_without_nan(m: Any, batch: Any) -> Tensor:
    return torch.nan_to_num(entropy(m, batch))


def clamped_mean(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.mse_loss(m(x), x[:, :3] + y[:, None]).clamp(max=100.0)


def mixed_when_large(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x + 0.1 * x.roll(1, 0) if len(x) >= 8 else x), y)


def mixed_from_epoch_one(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x + 0.1 * x.roll(1, 0) if m.current_epoch == 1 else x), y)


def centred_in_the_end(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x), y) if m.trainer.current_epoch < 90 else F.cross_entropy(m(x - x.mean(0)), y)


def weighted_after_warm_up(m: Any, batch: Any) -> Tensor:
    x, y = batch
    losses = F.cross_entropy(m(x), y, reduction="none")
    return losses.mean() if m.global_step == 0 else (losses / losses.detach().sum() * losses).mean()


class MixedInOddBatches(Probed):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.case.step(self, (x + 0.1 * x.roll(1, 0) if batch_idx % 2 else x, y))


def sorted_by_length(examples: Sequence[Any]) -> Any:
    return padded(sorted(examples, key=lambda item: -len(item["ids"])))


def sorted_by_value(examples: Sequence[Any]) -> Any:
    return default_collate(sorted(examples, key=lambda item: float(item[0][0])))


def tempered(m: Any, batch: Any) -> Tensor:
    return entropy(m, batch) * m.temperature.exp()


def four_steps() -> list[Any]:
    return sequences(length=4)


def by_steps() -> dict[str, nn.Module]:
    return {"net": nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))}


class WithTemperature(Probed):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.temperature = nn.Parameter(torch.zeros(()))


_of_steps = partial(Case, examples=four_steps, pitfall="p03")
_of_texts = partial(Case, layers=language_model, examples=texts, collate=padded, pitfall="p02")

FAULTS = [
    Case(
        "functional_batch_norm", functional_batch_norm, two_layers, says=MEETS + "they are mixed between", pitfall="p03"
    ),
    Case(
        "standardising_module",
        entropy,
        lambda: {"net": nn.Sequential(nn.Linear(6, 8), BatchStandardised(), nn.Linear(8, 3))},
        says=MEETS + r"layer 'net.1' \(BatchStandardised\) mixes them",
        pitfall="p03",
    ),
    Case(
        "standardising_layer_with_weights",
        entropy,
        lambda: {"net": nn.Sequential(nn.Linear(6, 8), Scaled(), nn.Linear(8, 3))},
        says=r"layer 'net.1' \(Scaled\)",
        pitfall="p03",
    ),
    Case("standardised_input", standardised_input, classifier, says=BEFORE, pitfall="p03"),
    Case("class_weights", class_weights, classifier, says=LOSS + DIVIDES, pitfall="p02"),
    Case("ignored_class", ignored_class, classifier, says=LOSS + DIVIDES, pitfall="p02"),
    Case("focal_by_weights", focal_by_weights, classifier, says=LOSS, pitfall="p02"),
    Case("contrastive", contrastive, classifier, says=LOSS, pitfall="p03"),
    Case("triplets", triplets, classifier, says=LOSS, pitfall="p03"),
    Case("mixup", mixup, classifier, says=BEFORE, pitfall="p04"),
    Case("rare_mixup", rare_mixup, classifier, says=BEFORE, pitfall="p04"),
    Case("mixup_of_features", mixup_of_features, two_layers, says=MEETS + "they are mixed between", pitfall="p04"),
    Case("cutmix", cutmix, convolutional, examples=images, says=BEFORE, pitfall="p04"),
    Case("mixup_in_collate", entropy, classifier, collate=mixed_by_collate, says=BEFORE, pitfall="p04"),
    Case("mosaic", entropy, convolutional, examples=images, collate=mosaic, says=BEFORE, pitfall="p04"),
    Case("smote", smote, classifier, says="before it is called again", pitfall="p04"),
    Case("mixup_in_transfer_hook", entropy, classifier, says=BEFORE, pitfall="p04", base=MixedInHook),
    Case("mixed_at_batch_start", entropy, classifier, says=BEFORE, pitfall="p03", base=MixedAtBatchStart),
    Case("smoothed_by_batch", smoothed_by_batch, classifier, says=LOSS, pitfall="p03"),
    Case("taught_by_batch_mean", taught_by_batch_mean, taught, says=LOSS, pitfall="p03"),
    Case("l2_penalty", l2_penalty, classifier, says="weight_decay in place of a penalty", pitfall="p05"),
    Case("l1_penalty", l1_penalty, classifier, says="weight_decay in place of a penalty", pitfall="p05"),
    Case("orthogonality", orthogonality, classifier, says="weight_decay in place of a penalty", pitfall="p05"),
    Case("summed", summed, classifier, says="the loss adds up its examples", pitfall="p11"),
    Case("times_batch_size", times_batch_size, classifier, says="the loss adds up its examples", pitfall="p11"),
    Case(
        "over_square_of_batch_size",
        over_square_of_batch_size,
        classifier,
        says="neither the mean nor the sum",
        pitfall="p11",
    ),
    Case("over_positives", over_positives, classifier, says=LOSS, pitfall="p02"),
    Case("gradient_penalty", gradient_penalty, classifier, says="differentiated twice", pitfall="p05"),
    Case("weight_gradient_penalty", weight_gradient_penalty, classifier, says="not while the gradients", pitfall="p05"),
    Case("sorted_batch", sorted_batch, classifier, says=BEFORE, pitfall="p03"),
    Case("shuffled_partner", shuffled_partner, classifier, says=BEFORE, pitfall="p04"),
    Case(
        "attention_over_batch",
        attention_over_batch,
        lambda: attention(batch_first=False),
        examples=sequences,
        says="layer 'attention' .* mix",
        pitfall="p03",
    ),
    Case(
        "similarity_over_batch", similarity_over_batch, two_layers, says=MEETS + "they are mixed between", pitfall="p03"
    ),
    Case("softmax_over_batch", softmax_over_batch, classifier, says=LOSS, pitfall="p03"),
    _of_steps("wrong_view", wrong_view, lambda: recurrent(batch_first=False), says=BEFORE),
    _of_steps(
        "time_first_as_batch_first",
        time_first_as_batch_first,
        lambda: recurrent(batch_first=True),
        says="layer 'rnn' .* mix",
    ),
    _of_steps("steps_before_examples", steps_before_examples, by_steps, says="mixed"),
    Case("running_normaliser", entropy, classifier, says=BEFORE, pitfall="p03", base=Normaliser),
    Case("batch_before", entropy, classifier, says="remembers examples", pitfall="p03", base=Remembering),
    Case("centre_loss", centre_loss, two_layers, says="couples|term of the loss", pitfall="p03"),
    Case("over_largest", over_largest, classifier, says=BEFORE, pitfall="p03"),
    Case("reversed_gradients", reversed_gradients, two_layers, says="custom autograd function", pitfall="p03"),
    _of_texts("over_all_tokens", over_all_tokens, says=LOSS + DIVIDES),
    _of_texts("sorted_by_length", over_own_length, collate=sorted_by_length, says=ORDER, pitfall="p03"),
    _of_texts("over_padded_length", over_padded_length, says="length to which they are padded"),
    Case("skipped_when_hard", skipped_when_hard, classifier, says="the loss couples", pitfall="p02"),
    Case("trimmed", trimmed, classifier, says=LOSS, pitfall="p02"),
    Case("median_loss", median_loss, classifier, says=LOSS, pitfall="p02"),
    Case("variance_of_losses", variance_of_losses, classifier, says=LOSS, pitfall="p02"),
    Case("own_weights_of_a_rare_class", own_weights, classifier, examples=one_class, says=LOSS, pitfall="p02"),
    Case("inverse_frequency", inverse_frequency, classifier, examples=one_class, says=LOSS, pitfall="p02"),
    Case("nan_to_num", mean_without_nan, classifier, says=LOSS, pitfall="p02"),
    Case("clamped_mean", clamped_mean, classifier, says=LOSS, pitfall="p02"),
    Case(
        "pulled_together",
        pulled_together,
        lambda: {"encoder": nn.Linear(6, 8), "head": nn.Linear(8, 12)},
        examples=many_classes,
        says="couples|term of the loss",
        pitfall="p03",
    ),
    Case("last_as_reference", last_as_reference, classifier, says=LOSS, pitfall="p03"),
    Case(
        "mixed_without_layers",
        mixed_without_layers,
        dict,
        says=MEETS,
        pitfall="p04",
        base=WithOwnWeight,
    ),
    Case("kept_at_batch_end", entropy, classifier, says="remembers examples", pitfall="p03", base=RememberingAtEnd),
    Case("loss_kept", entropy, classifier, says="remembers examples", pitfall="p03", base=RememberingLoss),
    Case("only_several", only_several, classifier, says="not on one", pitfall="p12"),
    Case("mixed_when_large", mixed_when_large, classifier, says=BEFORE, pitfall="p03"),
    Case("mixed_from_epoch_one", mixed_from_epoch_one, classifier, says=BEFORE, pitfall="p03"),
    Case("centred_in_the_end", centred_in_the_end, classifier, says=BEFORE, pitfall="p03"),
    Case("weighted_after_warm_up", weighted_after_warm_up, classifier, says=LOSS, pitfall="p02"),
    Case("mixed_in_odd_batches", entropy, classifier, says=BEFORE, pitfall="p03", base=MixedInOddBatches),
    Case("sorted_by_value", entropy, classifier, collate=sorted_by_value, says=ORDER, pitfall="p03"),
    Case("tempered", tempered, classifier, says="'temperature'.* Average last: ", pitfall="p05", base=WithTemperature),
    Case("covariance", covariance, classifier, says="a term of the loss", pitfall="p03"),
    Case(
        "concatenated",
        concatenated,
        lambda: {"net": nn.Linear(4, 3)},
        examples=sequences,
        collate=concatenate,
        says="can't be told which rows",
        pitfall="p03",
    ),
]
