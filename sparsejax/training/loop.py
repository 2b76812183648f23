"""The loop over epochs and chunks: what is due between two compiled calls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sparsejax.data.resident import Resident, epoch_order, steps_per_epoch
from sparsejax.hyper import Hyper
from sparsejax.models.base import Model, Variables
from sparsejax.training.checkpoints import Checkpoints
from sparsejax.training.config import TrainingConfig
from sparsejax.training.devices import Placement, carry, put_members, put_shared
from sparsejax.training.log import MetricsLog, Terminal
from sparsejax.training.objectives import Objective
from sparsejax.training.state import ORDER, Best, TrainState, init_best, init_state, update_best
from sparsejax.training.step import Augment, chunk_length, make_chunk

# evaluate(variables, epoch) -> name -> one number per network; the objective's score is among them, after "test_".
Evaluate = Callable[[Variables, Float[Array, "members"]], dict[str, Float[Array, "members"]]]


class Progress(NamedTuple):
    """Networks in training and each one's best so far; all arrays have a leading member axis."""

    state: TrainState
    best: Best


class Job(NamedTuple):
    """What stays fixed while networks are trained."""

    model: Model
    objective: Objective
    config: TrainingConfig
    placement: Placement
    hyper: Hyper
    data: Resident
    balanced: bool = False
    augment: Augment | None = None

    @property
    def members(self) -> int:
        """Number of networks."""
        return jax.tree.leaves(self.hyper)[0].shape[0]

    @property
    def examples(self) -> int:
        """Size of the training set."""
        return self.data.labels.shape[0]


def start(job: Job, seeds: list[int]) -> Progress:
    """Returns untrained networks, one per seed."""

    def init(hyper: Hyper, seed: Int[Array, ""], images: Array) -> Progress:
        state = init_state(job.model, job.config, hyper, seed, images)
        return Progress(state, init_best(state))

    tokens = job.data.images.dtype == np.int32
    example = np.zeros((1, *job.data.images.shape[1:]), np.int32 if tokens else np.float32)
    return carry(init, job.placement)(job.hyper, put_members(np.asarray(seeds, np.int32), job.placement), example)


def train(
    job: Job, progress: Progress, *, evaluate: Evaluate, saved: Checkpoints, log: MetricsLog, terminal: Terminal
) -> Progress:
    """Trains to the last epoch, from wherever `progress` stands.

    After each epoch the networks are evaluated, the best ones noted and a checkpoint saved; within an epoch, after
    every `checkpoint_every` steps, at the end of a chunk.
    """
    chunks: dict[int, tuple[Any, int]] = {}
    better = jax.jit(jax.vmap(update_best))
    position = {name: int(getattr(progress.state, name)[0]) for name in ("epoch", "position", "step")}
    saved_step = position["step"]
    for epoch in range(position["epoch"], job.config.epochs):
        batch_size = job.config.batch_size_in(epoch)
        steps = steps_per_epoch(job.examples, batch_size)
        if batch_size not in chunks:
            chunks[batch_size] = _compiled_chunk(job, batch_size, steps)
        chunk, length = chunks[batch_size]
        done, step = (position["position"] if epoch == position["epoch"] else 0), int(progress.state.step[0])
        batches = _shared_batches(job, epoch, batch_size)
        collected = []
        while done < steps:
            data = job.data if batches is None else job.data._replace(batches=batches[done : done + length])
            state, metrics = chunk(progress.state, job.hyper, data)
            metrics = {name: np.asarray(values) for name, values in metrics.items()}
            progress = progress._replace(state=state)
            done, step = done + length, step + length
            collected.append(metrics)
            terminal.advance(length * batch_size * job.members, f"epoch {epoch + 1}/{job.config.epochs}")
            log.write(step, epoch + done / steps, {name: values.tolist() for name, values in metrics.items()})
            due = job.config.checkpoint_every is not None and step - saved_step >= job.config.checkpoint_every
            if done < steps and due:
                saved.save(step, progress, score=float("-inf"))
                saved_step = step
        scores = evaluate(progress.state.variables, progress.state.epoch.astype(np.float32))
        score = scores[f"test_{job.objective.best}"] * (-1 if job.objective.least else 1)
        progress = progress._replace(best=better(progress.best, progress.state, score))
        scores = {name: np.asarray(values) for name, values in scores.items()}
        log.write(step, epoch + 1, {name: values.tolist() for name, values in scores.items()})
        saved.save(step, progress, score=float(np.mean(score)))
        saved_step = step
        terminal.say(_epoch_line(epoch, job.config.epochs, collected, scores, terminal.pace))
        terminal.restart_clock()
    return progress


def examples_done(config: TrainingConfig, examples: int, epoch: int, position: int) -> int:
    """Returns how many examples, repeats included, a network has seen at a position of an epoch."""
    sizes = [config.batch_size_in(i) for i in range(epoch + 1)]
    whole = sum(steps_per_epoch(examples, size) * size for size in sizes[:-1])
    return whole + position * sizes[-1]


def _shared_batches(job: Job, epoch: int, batch_size: int) -> Int[Array, "steps batch"] | None:
    """Returns the batches of an epoch if all networks share them."""
    if job.config.order_seed is None:
        return None
    key = jax.random.fold_in(jax.random.key(job.config.order_seed), ORDER)
    labels = job.data.labels if job.balanced else None
    return put_shared(epoch_order(key, jnp.int32(epoch), job.examples, batch_size, labels), job.placement)


def _compiled_chunk(job: Job, batch_size: int, steps: int) -> tuple[Any, int]:
    """Returns the chunk for a batch size, compiled when it is first called, and its number of steps."""
    length = chunk_length(steps)
    function = make_chunk(
        job.model, job.objective, job.config, examples=job.examples, batch_size=batch_size, length=length,
        balanced=job.balanced, augment=job.augment,
        axis_name=job.placement.axis_name, shards=job.placement.shards,
    )  # fmt: skip
    return carry(function, job.placement, donate=True), length


def _epoch_line(epoch: int, epochs: int, collected: list[dict[str, Any]], scores: dict[str, Any], pace: str) -> str:
    loss = np.mean([metrics["loss"] for metrics in collected])
    told = [_figure(name, values) for name, values in scores.items() if name.startswith(("test_", "active_fraction"))]
    return f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {', '.join(told)}  {pace}"


def _figure(name: str, values: Any) -> str:
    """Returns a name, the mean over the networks, and how far they spread: fractions in percent."""
    form = ".4f" if name.endswith("loss") else ".2%"
    spread = f" ± {values.std():{form}}" if len(values) > 1 else ""
    return f"{name.replace('_fraction', '').replace('_', ' ')} {values.mean():{form}}{spread}"
