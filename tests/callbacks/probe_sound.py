"""Sound training steps: what an example contributes depends on that example alone, and on randomness."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics
from probe_cases import Case, Probed, images, padded, sequences, texts, tokens, vectors
from probe_faults import (
    WithOwnWeight,
    classifier,
    convolutional,
    entropy,
    four_steps,
    language_model,
    many_classes,
    one_class,
    over_own_length,
    recurrent,
    taught,
    two_layers,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def bernoulli(m: Any, batch: Any) -> Tensor:
    return F.binary_cross_entropy(m(batch[0])[:, 0].sigmoid(), batch[1].float())


def without_layers(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy((x + 0.1 * torch.randn_like(x)) @ m.weight, y)


def nan_to_num_per_example(m: Any, batch: Any) -> Tensor:
    return torch.nan_to_num(F.cross_entropy(m(batch[0]), batch[1], reduction="none")).mean()


class Looking(Probed):
    """Looks at gradients and losses, and keeps some of it."""

    def on_after_backward(self) -> None:
        # A draw that is cut into micro-batches has its gradient after the last of them.
        self.norms = [float(p.grad.norm()) for p in self.parameters() if p.grad is not None]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.last = outputs["loss"], self.trainer.callback_metrics.get("loss")


def per_example(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], reduction="none").mean()


def class_weights_per_example(m: Any, batch: Any) -> Tensor:
    weight = torch.tensor([1.0, 2.0, 5.0])
    return F.cross_entropy(m(batch[0]), batch[1], weight=weight, reduction="none").mean()


def ignored_class_per_example(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], ignore_index=2, reduction="none").mean()


def weighted_examples(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return (F.cross_entropy(m(x), y, reduction="none") * x.abs().mean(1)).mean()


def auxiliary_head(m: Any, batch: Any) -> Tensor:
    x, y = batch
    hidden = m.encoder(x).relu()
    return F.cross_entropy(m.head(hidden), y) + 0.3 * F.mse_loss(m.back(hidden), x)


def smoothed(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], label_smoothing=0.1)


def focal(m: Any, batch: Any) -> Tensor:
    losses = F.cross_entropy(m(batch[0]), batch[1], reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def distilled(m: Any, batch: Any) -> Tensor:
    x, y = batch
    with torch.no_grad():
        soft = (m.teacher(x) / 2).softmax(1)
    out = m(x)
    return F.cross_entropy(out, y) + 4 * F.kl_div((out / 2).log_softmax(1), soft, reduction="batchmean")


def hinge(m: Any, batch: Any) -> Tensor:
    return F.multi_margin_loss(m(batch[0]), batch[1])


def huber(m: Any, batch: Any) -> Tensor:
    return F.huber_loss(m(batch[0])[:, 0], batch[1].float())


def dead(m: Any, batch: Any) -> Tensor:
    """Zero, with its gradient, for two of three examples."""
    return F.relu(m(batch[0])[:, 0] * (batch[1] == 0)).mean()


def noisy(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x + 0.3 * torch.randn_like(x)), y)


def dropped_patches(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x * (torch.rand(len(x), 1, *x.shape[2:]) > 0.3)), y)


def permuted_patches(m: Any, batch: Any) -> Tensor:
    x, y = batch
    order = torch.rand(len(x), x.shape[1]).argsort(1)
    return F.cross_entropy(m(x.gather(1, order[:, :, None].expand_as(x))).mean(1), y)


def mixed_with_itself(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(0.5 * x + 0.5 * x.flip(-1)), y)


def from_dictionary(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch["x"]), batch["y"])


def collate_dataclass(examples: list[Any]) -> Any:
    return Batch(torch.stack([x for x, _ in examples]), torch.tensor([y for _, y in examples]))


@dataclass
class Batch:
    x: Tensor
    y: Tensor


Pair = namedtuple("Pair", ["x", "y"])


def from_attributes(m: Any, batch: Any) -> Tensor:
    return F.cross_entropy(m(batch.x), batch.y)


def in_a_dictionary(m: Any, batch: Any) -> Any:
    return {"loss": entropy(m, batch), "x": batch[0].detach()}


def packed(m: Any, batch: Any) -> Tensor:
    embedded = m.embedding(batch["ids"])
    rows = nn.utils.rnn.pack_padded_sequence(embedded, batch["lengths"], batch_first=True, enforce_sorted=False)
    _, last = m.rnn(rows)
    return F.mse_loss(m.head(last[-1])[:, 0], batch["lengths"].float())


def time_first(m: Any, batch: Any) -> Tensor:
    x, y = batch
    out, _ = m.rnn(x.transpose(0, 1))
    return F.cross_entropy(m.head(out[-1]), y)


def time_first_layers(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m.net(x.transpose(0, 1)).mean(0), y)


def mean_over_steps_sum_over_words(m: Any, batch: Any) -> Tensor:
    ids = batch["ids"]
    return F.cross_entropy(m(ids).transpose(1, 2), ids, reduction="none").sum(1).mean()


def all_tokens(m: Any, batch: Any) -> Tensor:
    """The mean over all tokens of texts of one length."""
    ids = batch["ids"]
    return F.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def masked_tokens(m: Any, batch: Any) -> Tensor:
    """Divides by a count that is drawn at random, whatever the texts are."""
    ids = batch["ids"]
    losses = F.cross_entropy(m(ids).flatten(0, 1), ids.flatten(), reduction="none")
    chosen = (torch.rand(ids.shape) < 0.4).flatten()
    return losses[chosen].mean()


def positions(m: Any, batch: Any) -> Tensor:
    ids = batch["ids"]
    hidden = m.words(ids) + m.places(torch.arange(ids.shape[1]).unsqueeze(0))
    mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
    return F.cross_entropy(m.head(m.block(hidden, src_mask=mask))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def tied(m: Any, batch: Any) -> Tensor:
    ids = batch["ids"]
    return F.cross_entropy(m.head(m.words(ids).tanh()).flatten(0, 1), ids.roll(1, 1).flatten())


def tied_layers() -> dict[str, nn.Module]:
    words, head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
    head.weight = words.weight
    return {"words": words, "head": head}


def windows(m: Any, batch: Any) -> Tensor:
    x, y = batch  # (B, T, D)
    rows = m.net(x.reshape(-1, x.shape[2]))
    return F.cross_entropy(rows.reshape(*x.shape[:2], -1).mean(1), y)


def checkpointed(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(m.head(checkpoint(m.encoder, x, use_reentrant=False)), y)


def siamese(m: Any, batch: Any) -> Tensor:
    x, y = batch
    return (F.cosine_similarity(m(x), m(x.flip(1))) - y.float()).square().mean()


def several_tasks(m: Any, batch: Any) -> Tensor:
    x, y = batch
    hidden = m.encoder(x).tanh()
    return F.cross_entropy(m.head(hidden), y) + 0.1 * hidden.square().mean() + F.l1_loss(m.back(hidden), x)


def variational(m: Any, batch: Any) -> Tensor:
    x, _ = batch
    mean, log_variance = m.encoder(x).chunk(2, 1)
    sample = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return ((m.back(torch.cat([sample, sample], 1)) - x).square().sum(1) + divergence).mean()


class Counting(Probed):
    """Uses the number of the batch, logs, keeps metrics and lists, and looks at its optimizer and trainer."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.seen: list[Any] = []

    def on_train_epoch_start(self) -> None:
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        out = self(x)
        loss = F.cross_entropy(out, y) * (1 + 0.1 * (batch_idx % 2))
        self.accuracy(out, y)
        self.seen.append(len(x))
        self.losses.append(float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        self.log_dict({"accuracy": self.accuracy, "rate": self.optimizers().param_groups[0]["lr"]})
        return loss


class Warming(Probed):
    """Weighs a term by the trainer's step."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        out = self(x)
        return F.cross_entropy(out, y) + min(1.0, self.trainer.global_step / 10) * out.square().mean()


class ByHand(Probed):
    """Manual optimisation."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(entropy(self, batch))
        optimizer.step()


class OwnRegression(nn.Module):
    """A module with parameters of its own and no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) @ self.weight


def with_layers(*layers: nn.Module) -> dict[str, nn.Module]:
    return {"net": nn.Sequential(*layers)}


def three_layers() -> dict[str, nn.Module]:
    return {**two_layers(), "back": nn.Linear(8, 6)}


def transformer() -> dict[str, nn.Module]:
    return {
        "words": nn.Embedding(11, 8),
        "places": nn.Embedding(6, 8),
        "block": nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
        "head": nn.Linear(8, 11),
    }


def doubles() -> list[Any]:
    return vectors(dtype=torch.float64)


def dictionaries() -> list[Any]:
    return [{"x": x, "y": y, "note": f"number {number}"} for number, (x, y) in enumerate(vectors())]


def pairs() -> list[Any]:
    return [Pair(x, y) for x, y in vectors()]


def few() -> list[Any]:
    return vectors(count=8)


SOUND = [
    Case("plain", entropy, classifier),
    Case("per_example_mean", per_example, classifier),
    Case("dropout", entropy, lambda: with_layers(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))),
    Case(
        "group_norm",
        entropy,
        lambda: with_layers(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(True), nn.Flatten(), nn.Linear(64, 3)),
        examples=images,
    ),
    Case("layer_norm", entropy, lambda: with_layers(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))),
    Case("class_weights_per_example", class_weights_per_example, classifier),
    Case("ignored_class_per_example", ignored_class_per_example, classifier),
    Case("weighted_examples", weighted_examples, classifier),
    Case("auxiliary_head", auxiliary_head, three_layers),
    Case("label_smoothing", smoothed, classifier),
    Case("focal", focal, classifier),
    Case("distilled", distilled, taught),
    Case("hinge", hinge, classifier),
    Case("huber", huber, classifier),
    Case("dead_examples", dead, classifier),
    Case("noisy_inputs", noisy, classifier),
    Case("dropped_patches", dropped_patches, convolutional, examples=images),
    Case("permuted_patches", permuted_patches, lambda: {"net": nn.Linear(4, 3)}, examples=sequences),
    Case("mixed_with_itself", mixed_with_itself, classifier),
    Case("dictionary", from_dictionary, classifier, examples=dictionaries),
    Case("dataclass", from_attributes, classifier, collate=collate_dataclass),
    Case("named_tuple", from_attributes, classifier, examples=pairs),
    Case("loss_in_a_dictionary", in_a_dictionary, classifier),
    Case(
        "packed_sequences",
        packed,
        lambda: {
            "embedding": nn.Embedding(11, 6),
            "rnn": nn.GRU(6, 5, batch_first=True),
            "head": nn.Linear(5, 1),
        },
        examples=texts,
        collate=padded,
    ),
    Case("time_first", time_first, lambda: recurrent(batch_first=False), examples=sequences),
    Case("time_first_as_many_steps_as_examples", time_first_layers, lambda: {"net": nn.Linear(4, 3)}, four_steps),
    Case("sum_over_words", mean_over_steps_sum_over_words, language_model, examples=tokens),
    Case("all_tokens", all_tokens, language_model, examples=tokens),
    Case("masked_tokens", masked_tokens, language_model, examples=tokens),
    Case("padded_per_example", over_own_length, language_model, examples=texts, collate=padded),
    Case("positions", positions, transformer, examples=tokens),
    Case("tied", tied, tied_layers, examples=tokens),
    Case("windows", windows, lambda: {"net": nn.Linear(4, 3)}, examples=sequences),
    Case("checkpointed", checkpointed, two_layers),
    Case("siamese", siamese, classifier),
    Case("several_tasks", several_tasks, three_layers),
    Case("variational", variational, three_layers),
    Case("own_module", entropy, lambda: {"net": OwnRegression()}),
    Case("counting", entropy, classifier, base=Counting),
    Case("warming", entropy, classifier, base=Warming),
    Case("by_hand", entropy, classifier, base=ByHand),
    Case("double", entropy, lambda: {"net": classifier()["net"].double()}, examples=doubles),
    Case("one_class", entropy, classifier, examples=one_class),
    Case("one_class_one_output", bernoulli, lambda: {"net": nn.Linear(6, 1)}, examples=one_class),
    Case("many_classes", entropy, lambda: {"net": nn.Linear(6, 12)}, examples=many_classes),
    Case("without_layers", without_layers, dict, base=WithOwnWeight),
    Case("own_nan_to_num", nan_to_num_per_example, classifier),
    Case("looking_at_gradients", entropy, classifier, base=Looking),
    Case("few_examples", entropy, classifier, examples=few),
]
