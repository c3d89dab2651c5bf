"""Federated training as a Lightning strategy: a round is a step.

In each step of the trainer a cohort of clients is drawn, each is trained from the global weights with the module's own
``training_step`` and ``configure_optimizers``, and minus the aggregate of their changes becomes the gradient on which
the server's optimizer steps (Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 1). So ``global_step``
counts rounds, and validation, loggers, checkpoints, early stopping and the progress bar work on the global model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_privacy._lightning import (
    LightningModule,
    LRSchedulerConfig,
    Strategy,
    Trainer,
    check_trainer,
)
from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.callbacks._processes import processes_of
from lightning_privacy.callbacks._trainer_rounds import (
    log_alike,
    logged_keys,
    pass_untouched,
    replace_train_loader,
    stop_passing,
)
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.federated.aggregation import Aggregator, WeightedMean
from lightning_privacy.federated.algorithms import Algorithm
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import AllClients, CohortSampler, cohort_sampler
from lightning_privacy.federated.example_privacy import ExamplePrivacy
from lightning_privacy.federated.failures import SimulatedFailures
from lightning_privacy.federated.flat import FlatModel, Pattern
from lightning_privacy.federated.local import check_local_work
from lightning_privacy.federated.partitions import Partition
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.server import FedAvg, ServerOptimizer
from lightning_privacy.federated.transforms import DeltaTransform
from lightning_privacy.strategies._assembly import LocalWork, assemble
from lightning_privacy.strategies._clients import Clients, SharedOutClients, SiloClients
from lightning_privacy.strategies._federated_checks import (
    check_fit,
    check_launcher,
    check_optimizers,
    check_private_fit,
)
from lightning_privacy.strategies._federation import Federation
from lightning_privacy.strategies._guarantees import Guarantees
from lightning_privacy.strategies._local_settings import LocalSettings
from lightning_privacy.strategies._plan import Plan, clients_at_once
from lightning_privacy.strategies._round_report import round_entry
from lightning_privacy.strategies._round_result import RoundResult
from lightning_privacy.strategies._rounds import Round, RoundLoader
from lightning_privacy.strategies._server_precision import ServerPrecision
from lightning_privacy.strategies._unwrapped import UnwrappedStrategy

__all__ = ["FederatedStrategy"]

_STATE_KEY = "lightning_privacy_federated"


class FederatedStrategy(UnwrappedStrategy):
    """Trains many clients and averages what they learned, round after round.

    An epoch of the trainer is ``rounds_per_epoch`` rounds. The train loader gives the data set, the batch size and the
    collate function of every client; with ``partition=None`` each process is one client with its own loader. With
    several devices the clients of a round are spread over the processes and their changes are summed by one all-reduce.

    Args:
        partition: Who holds which examples of the train data set; None: each process is a client.
        cohort_size: Clients of a round; None for all.
        local_epochs: Epochs a client trains in a round.
        local_steps: Optimizer steps a client trains in a round, in place of ``local_epochs``.
        rounds_per_epoch: Rounds of an epoch.
        server_optimizer: From parameters to the server's optimizer, or to an optimizer and a scheduler that steps every
            round; :class:`~lightning_privacy.federated.FedAvg` when None.
        aggregator: Makes one delta of many; the mean weighted by numbers of examples when None.
        algorithm: What clients do differently, such as :class:`~lightning_privacy.federated.FedProx`.
        transforms: Steps of the pipeline between clients and server, such as a compression.
        client_sampling: ``"uniform"``, ``"poisson"``, ``"weighted"``, ``"all"``, or a cohort sampler.
        client_weights: One per client, for ``"weighted"``.
        personal: Names or patterns of parameters and buffers that every client keeps for itself, or kinds of layers:
            ``nn.BatchNorm2d`` is FedBN (Li et al., ICLR 2021).
        persistent_optimizer: Clients keep the state of their optimizer from round to round.
        failures: Simulated failures.
        min_clients: A round with fewer usable updates ends the fit with an error.
        client_privacy: Differential privacy of whole clients.
        secure_sum: Sum what clients send by masks that cancel out, so that their sum is all that can be seen of it; who
            drops out in a round is made up for. Each process has a sum of its own over the clients it trains, and
            these sums are added plainly. Losses and seconds of clients are reported beside it.
        example_privacy: Differential privacy of the examples inside each client, whose local steps are DP-SGD with a
            ledger for each client.
        vectorize: Train several clients at once, by ``torch.vmap`` over stacked parameters; a number says how many at
            the most, True 32. For many small clients and small models, on a GPU above all. The batches of one step
            must be of few sizes: those of unlike size go through the module one after the other. Not with privacy.
        deterministic: Add up in fixed point: the same bits for any number of processes.
        seed: Of partition, cohorts, order of batches and everything random inside a client; 0 when None. With client
            privacy, cohorts are drawn in secret unless a seed is given, and then it must be as secret as the data.
        **kwargs: Those of :class:`~lightning.pytorch.strategies.ParallelStrategy` and ``start_method``.

    Raises:
        ConfigurationError: An argument is out of range, or two don't go together.

    Example:
        >>> from lightning_privacy.federated import IIDPartition
        >>> strategy = FederatedStrategy(partition=IIDPartition(100), cohort_size=10, local_epochs=2)
        >>> strategy.rounds_per_epoch
        1
    """

    def __init__(
        self,
        *,
        partition: Partition | None = None,
        cohort_size: int | None = None,
        local_epochs: int | None = None,
        local_steps: int | None = None,
        rounds_per_epoch: int = 1,
        server_optimizer: ServerOptimizer | None = None,
        aggregator: Aggregator | None = None,
        algorithm: Algorithm | None = None,
        transforms: Sequence[DeltaTransform] = (),
        client_sampling: str | CohortSampler = "uniform",
        client_weights: Sequence[float] | None = None,
        personal: Pattern | Sequence[Pattern] = (),
        persistent_optimizer: bool = False,
        failures: SimulatedFailures | None = None,
        min_clients: int = 1,
        client_privacy: ClientPrivacy | None = None,
        secure_sum: SecureSum | None = None,
        example_privacy: ExamplePrivacy | None = None,
        vectorize: bool | int = False,
        deterministic: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if partition is not None and not isinstance(partition, Partition):
            raise ConfigurationError(f"partition must be a Partition or None, got {partition!r}")
        self.rounds_per_epoch = positive_int(rounds_per_epoch=rounds_per_epoch)
        self._partition = partition
        self._work = LocalWork(1 if local_epochs is None and local_steps is None else local_epochs, local_steps)
        check_local_work(self._work.epochs, local_steps)
        everyone = cohort_size is None and client_sampling == "uniform"
        self._server = FedAvg() if server_optimizer is None else server_optimizer
        self._personal = (personal,) if isinstance(personal, str | type) else tuple(personal)
        self._plan = Plan(
            cohorts=AllClients() if everyone else cohort_sampler(client_sampling, cohort_size, client_weights),
            aggregator=WeightedMean(weighted=client_privacy is None) if aggregator is None else aggregator,
            algorithm=Algorithm() if algorithm is None else algorithm,
            transforms=tuple(transforms),
            failures=failures,
            min_clients=positive_int(min_clients=min_clients),
            seed=non_negative_int(seed=0 if seed is None else seed),
            deterministic=deterministic,
            persistent_optimizer=persistent_optimizer,
            privacy=client_privacy,
            secure_sum=secure_sum,
            example_privacy=example_privacy,
            vectorize=clients_at_once(vectorize),
        )
        self._guarantees = Guarantees(self._plan, secret_cohorts=client_privacy is not None and seed is None)
        self._undo = ExitStack()
        self._federation: Federation | None = None
        self._clients: Clients | None = None
        self._client_optimizer: Optimizer | None = None
        self._restored: Mapping[str, Any] | None = None
        self._result: RoundResult | None = None
        self._training_client = False
        self._settings: LocalSettings | None = None
        self.history: list[dict[str, Any]] = []

    def client_memory(self) -> dict[int, dict[str, Tensor]]:
        """What clients keep from round to round, by client and name: personal models, control variates."""
        return {} if self._federation is None else self._federation.stores.memory

    def prepare_rounds(self) -> int:
        """Get ready for the rounds of a fit whose train loader is set up, as its first round would do.

        Returns:
            How many clients there are.

        Raises:
            ConfigurationError: There is no such fit, or its rounds can't be planned.
        """
        return self._federate().clients.count

    @property
    def client_privacy(self) -> ClientPrivacy | None:
        """The differential privacy of whole clients, with its ledger; None without."""
        return self._plan.privacy

    @property
    def example_privacy(self) -> ExamplePrivacy | None:
        """The differential privacy of examples inside clients, with a ledger for each; None without."""
        return self._plan.example_privacy

    @override
    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        check_launcher(self._launcher, self._plan)

    @override
    def setup(self, trainer: Trainer) -> None:
        check_trainer(trainer)
        module = self._module()
        if trainer.state.fn == "fit":
            check_fit(trainer, module)
            check_private_fit(trainer, self._plan)
            settings = self._settings = LocalSettings.borrow(trainer)
            self._undo.callback(settings.give_back, trainer)
            self._undo.callback(replace_train_loader(trainer, self._rounds_over))
            pass_untouched(module, Round)
            self._undo.callback(stop_passing, module)
        # Past DDPStrategy.setup, which would wrap the module.
        Strategy.setup(self, trainer)

    @override
    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        check_optimizers(self.optimizers, self.lr_scheduler_configs, self._module())
        self._client_optimizer = self.optimizers[0]
        shared = self._flat_model().parameters
        made = self._server(shared)
        optimizer, scheduler = made if isinstance(made, tuple) else (made, None)
        self.optimizers = [optimizer]
        if scheduler is not None:
            self.lr_scheduler_configs.append(LRSchedulerConfig(scheduler, name="server", interval="step"))

    def _flat_model(self) -> FlatModel:
        return FlatModel(self._module(), personal=self._personal, statistics_only=self._plan.privacy is not None)

    def _rounds_over(self, loader: Any) -> RoundLoader:
        """Take the user's loader apart into clients; Lightning goes over the rounds."""
        if self._partition is not None:
            self._clients = SharedOutClients(loader, self._partition, self._plan.seed)
        else:
            processes = processes_of(self._module().trainer)
            self._clients = SiloClients(loader, processes.rank, processes.gather(SiloClients.sizes_of(loader)))
        self._federation = None
        return RoundLoader(loader, self.rounds_per_epoch)

    def _federate(self) -> Federation:
        """What runs the rounds; made anew when other parameters train than before."""
        module = self._module()
        federation = self._federation
        if federation is not None and federation.model.fits(module):
            return federation
        if self._clients is None or self._client_optimizer is None or self._settings is None:
            raise ConfigurationError("the strategy has no clients yet: it is used through Trainer.fit")
        trainer, plan = module.trainer, self._plan
        state: Mapping[str, Any] | None = None if federation is None else federation.state_dict()
        self._federation = assemble(
            plan,
            trainer,
            module,
            model=self._flat_model(),
            optimizer=self._client_optimizer,
            clients=self._clients,
            work=self._work,
            settings=self._settings,
            cohort_seed=self._guarantees.cohort_seed(trainer),
        )
        if state is None and self._restored is not None:
            state, self._restored = self._restored, None
        self._guarantees.prepare(trainer, self._federation)
        if state is not None:
            self._federation.load_state_dict(state)
        self._guarantees.begin(trainer, resumed=state is not None, keeps=bool(self._personal))
        return self._federation

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Train the cohort of a round; the result is the mean loss over its clients."""
        batch = args[0] if args else next(iter(kwargs.values()))
        if not isinstance(batch, Round):
            raise ConfigurationError(f"FederatedStrategy trains rounds, got a batch of type {type(batch).__name__}")
        module = self._module()
        trainer = module.trainer
        batch.number = trainer.global_step
        federation = self._federate()
        server = self.optimizers
        self._training_client = True
        try:
            # What training_step finds as self.optimizers(): the server's is nobody's to change but the server's.
            self.optimizers = [federation.client_optimizer]
            with torch.enable_grad():
                self._result = federation.run(batch.number)
        finally:
            self._training_client = False
            self.optimizers = server
        batch.cohort = self._result.cohort
        self._guarantees.stop_when_spent(trainer)
        self._report(module, batch.number, self._result)
        self._guarantees.watch(trainer)
        self._align_logs(trainer)  # after this process has logged: the first log of an epoch forgets the last one's
        return torch.tensor(self._result.loss, device=self.root_device)

    def _align_logs(self, trainer: Trainer) -> None:
        """Let a process that trained no client log the same names as the others."""
        processes = processes_of(trainer)
        if processes.several:
            everyones = processes.gather(logged_keys(trainer))
            self._training_client = True  # what is logged on every batch is not reduced here either
            try:
                log_alike(trainer, [key for keys in everyones for key in keys])
            finally:
                self._training_client = False

    def _report(self, module: LightningModule, number: int, result: RoundResult) -> None:
        entry = round_entry(number, result, self._federate().model.size)
        self.history.append(entry)
        for name, value in entry.items():
            if isinstance(value, float):
                module.log(f"federated/{name}", value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    @override
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Write minus the aggregate where the server's optimizer takes its gradient from."""
        result = self._result
        if result is None:
            raise ConfigurationError("there is no round to step on: the strategy is used through Trainer.fit")
        module, model = self._module(), self._federate().model
        precision = ServerPrecision()
        closure_loss = precision.pre_backward(closure_loss, module)
        model.write_pseudo_gradient(result.aggregate)
        model.move_buffers(result.aggregate, result.increments)
        return precision.post_backward(closure_loss, module)

    @override
    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Step the server's optimizer, past the clients' precision and gradient clipping."""
        return ServerPrecision().optimizer_step(optimizer, model=self._module(), closure=closure, **kwargs)

    @override
    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        # A client's step must not wait for other processes, which train other clients, so many as they have.
        if self._training_client:
            return tensor
        if isinstance(tensor, Tensor) and not tensor.is_floating_point() and reduce_op in ("mean", "avg"):
            # Numbers of examples, by which Lightning weighs what was logged: their mean would be rounded down.
            tensor = tensor.double()
        return super().reduce(tensor, group, reduce_op)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self._federation is not None:
            self._guarantees.keep_journals(self._module().trainer)
            checkpoint[_STATE_KEY] = self._federation.state_dict()
        super().save_checkpoint(checkpoint, filepath, storage_options)

    @override
    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(*args, **kwargs)
        module = self.lightning_module
        if module is not None and module.trainer.state.fn == "fit":
            if _STATE_KEY not in checkpoint:
                raise CheckpointError(
                    "the checkpoint is not of a federated run, so there is no state of server and clients to go on "
                    "from: load its weights with load_from_checkpoint and start a new run"
                )
            self._restored = checkpoint[_STATE_KEY]
        return checkpoint

    @override
    def teardown(self) -> None:
        if self._result is not None:
            self._guarantees.tell()
        self._undo.close()
        self._result = None
        super().teardown()
