"""Published architectures at a small size, in float64 against brute force."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from architectures import IMAGE_NETWORKS, NETWORKS, bert, gpt2, trained
from brute_force import check_clipped_sums, outputs_loss
from laid_out import check_laid_out
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(90)


@pytest.mark.parametrize(("make", "size", "laid_out"), IMAGE_NETWORKS.values(), ids=IMAGE_NETWORKS)
def test_image_network(make: Callable[[], nn.Module], size: int, laid_out: bool) -> None:
    model = trained(make())
    (check_laid_out if laid_out else check_clipped_sums)(model, (torch.randn(3, 3, size, size, dtype=torch.float64),))


def _language_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none").mean(1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def testgpt2(attention: str) -> None:
    model = gpt2(attn_implementation=attention)
    check_laid_out(model, (torch.randint(0, 11, (4, 5)),), loss=_language_loss)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_gpt2_that_recomputes_its_blocks() -> None:
    model = gpt2()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    check_laid_out(model, (torch.randint(0, 11, (4, 5)),), loss=_language_loss)


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_bert(length: int) -> None:
    model = bert()
    mask = torch.ones(4, length, dtype=torch.long)
    mask[0, 1:] = 0

    def loss(model: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
        return outputs_loss(lambda t: model(input_ids=t, attention_mask=mask).logits, tokens)

    check_laid_out(model, (torch.randint(0, 11, (4, length)), mask), loss=loss)


@pytest.mark.parametrize("laid_out", [False, True], ids=["plain", "laid out"])
@pytest.mark.parametrize(("make", "data"), NETWORKS.values(), ids=NETWORKS)
def test_network(make: Callable[[], nn.Module], data: Callable[[], Tensor], laid_out: bool) -> None:
    x = data()
    model = make().double()
    (check_laid_out if laid_out else check_clipped_sums)(model, (x.double() if x.is_floating_point() else x,))
