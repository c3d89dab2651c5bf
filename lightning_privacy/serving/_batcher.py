"""Requests that wait together are answered together: one entry in the ledger, one pass of the model.

While a batch is answered the next one gathers; nobody waits for a batch to fill. A commit to the disk takes most of
the time of an answer with a budget, and is shared by all who waited for it.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.serving import PrivatePredictor
    >>> async def ask():
    ...     with Batcher(PrivatePredictor(nn.Linear(2, 3))) as batcher:
    ...         both = [batcher.answer("a", torch.rand(1, 2)), batcher.answer("b", torch.rand(4, 2))]
    ...         return [len(answers) for answers in await asyncio.gather(*both)]
    >>> asyncio.run(ask())
    [1, 4]
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import LightningPrivacyError, PrivacyBudgetExceeded
from lightning_privacy.serving.answers import Answers
from lightning_privacy.serving.private_predictor import PrivatePredictor

__all__ = ["Batcher", "OverloadedError"]


class OverloadedError(LightningPrivacyError, RuntimeError):
    """So many requests wait that another one would wait too long."""


class Batcher:
    """Gathers what waits for a predictor.

    Args:
        predictor: Answers.
        max_examples: Most examples of one pass.
        max_waiting: Most requests that wait.
        on_batch: Called after each pass.
    """

    def __init__(
        self,
        predictor: PrivatePredictor,
        *,
        max_examples: int = 256,
        max_waiting: int = 1024,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self._predictor = predictor
        self._max_examples = positive_int(max_examples=max_examples)
        self._max_waiting = positive_int(max_waiting=max_waiting)
        self._on_batch = on_batch
        self._waiting: deque[tuple[str, Tensor, asyncio.Future[Answers | PrivacyBudgetExceeded]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predictor")

    async def answer(self, client: str, inputs: Tensor) -> Answers | PrivacyBudgetExceeded:
        """The answers, or why there are none.

        Args:
            client: Who asks.
            inputs: Checked, shape ``(N, ...)``.

        Raises:
            OverloadedError: Too many requests wait; nothing was charged.
            TamperedError: The ledger's file was altered; nothing was answered.
        """
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError(f"{self._max_waiting} requests wait already: ask again later")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answers | PrivacyBudgetExceeded] = loop.create_future()
        self._waiting.append((client, inputs, future))
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft()]
            examples = len(batch[0][1])
            while self._waiting and examples + len(self._waiting[0][1]) <= self._max_examples:
                batch.append(self._waiting.popleft())
                examples += len(batch[-1][1])
            # Who has hung up in the meantime is not charged.
            batch = [each for each in batch if not each[2].done()]
            if not batch:
                continue
            requests = [(client, inputs) for client, inputs, _ in batch]
            try:
                answers = await loop.run_in_executor(self._thread, self._predictor.answer_many, requests)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it, whatever it is
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._on_batch()
            for (_, _, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
