"""The loop over epochs and chunks: everything between two compiled calls."""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sparsejax.data.block_order import BlockOrder
from sparsejax.data.dataset import Split
from sparsejax.data.resident import Resident, epoch_order, steps_per_epoch
from sparsejax.data.streaming import Streamed, read_chunks
from sparsejax.errors import DivergedError, Interrupted, SparsejaxWarning
from sparsejax.models.base import Variables
from sparsejax.training.checkpoints import Checkpoints
from sparsejax.training.config import TrainingConfig
from sparsejax.training.devices import gather_members, own_columns, put_batches, put_shared, transform
from sparsejax.training.log import MetricsLog, Terminal
from sparsejax.training.objectives import OBJECTIVES
from sparsejax.training.prepare import Job, Progress
from sparsejax.training.state import ORDER, update_best
from sparsejax.training.step import chunk, chunk_length

# evaluate(variables, epoch) -> name -> one number per network, including the objective's score as "test_...".
Evaluate = Callable[[Variables, Float[Array, "members"]], dict[str, Float[Array, "members"]]]


def train(
    job: Job,
    progress: Progress,
    *,
    evaluate: Evaluate,
    saved: Checkpoints,
    log: MetricsLog,
    terminal: Terminal,
    asked_to_stop: Callable[[], int] = lambda: 0,
) -> Progress:
    """Trains to the last epoch, starting at `progress`.

    After each epoch the networks are evaluated, the best ones updated and a checkpoint saved; within an epoch, a
    checkpoint is saved after every `checkpoint_every` steps, at the end of a chunk.

    Raises:
      Interrupted: the run received a signal and saved a checkpoint.
      CheckpointError, RunFolderError: a file cannot be written.
      DivergedError: a loss is not finite, or all steps of an epoch were skipped for this; the steps since the last
        checkpoint are not saved.
    """
    chunk_for = functools.cache(functools.partial(compile_chunk, job))
    objective = OBJECTIVES[job.config.objective.kind]
    better = jax.jit(jax.vmap(update_best))

    def numbers(values: Any) -> Any:
        return gather_members(values, job.members)

    def save(step: int, score: float) -> None:
        log.sync()  # before the checkpoint, whose steps are not repeated
        saved.save(step, numbers(progress), score=score)

    first_epoch, position, step = (int(values[0]) for values in numbers(progress.state[3:]))
    saved_step, seed_key = step, jax.random.wrap_key_data(jnp.asarray(numbers(progress.state.key)[0]))
    for epoch in range(first_epoch, job.training.epochs):
        batch_size = job.training.batch_size_in(epoch)
        steps = steps_per_epoch(job.examples, batch_size)
        run_chunk, length = chunk_for(batch_size)
        done = position if epoch == first_epoch else 0
        collected = []
        for data in _chunks_of_data(job, seed_key, epoch, batch_size, done, length):
            state, metrics = run_chunk(progress.state, job.config, data)
            metrics = numbers(metrics)
            _check_overflow(metrics, step=step)
            _check_finite(job, metrics, step=step, epoch=epoch, batch=done, steps=steps, saved_step=saved_step)
            progress = progress._replace(state=state)
            done, step = done + length, step + length
            collected.append(metrics)
            terminal.advance(length * batch_size * job.members, f"epoch {epoch + 1}/{job.training.epochs}")
            log.write(step, epoch + done / steps, {name: values.tolist() for name, values in metrics.items()})
            saved.check()
            stop = asked_to_stop()
            due = job.training.checkpoint_every is not None and step - saved_step >= job.training.checkpoint_every
            if done < steps and (due or stop):
                save(step, float("-inf"))
                saved_step = step
                if stop:
                    raise Interrupted(f"after step {step:,}", stop)
        _check_progress(job, collected, epoch=epoch, steps=steps)
        scores = evaluate(progress.state.variables, progress.state.epoch.astype(np.float32))
        score = scores[f"test_{objective.best}"] * (-1 if objective.least else 1)
        progress = progress._replace(best=better(progress.best, progress.state, score))
        score, scores = numbers((score, scores))
        log.write(step, epoch + 1, {name: values.tolist() for name, values in scores.items()})
        save(step, float(np.mean(score)))
        saved_step = step
        terminal.say(_epoch_line(epoch, job.training.epochs, collected, scores, terminal.pace))
        terminal.restart_clock()
        if stop := asked_to_stop():
            raise Interrupted(f"after step {step:,}", stop)
    return progress


def _check_finite(
    job: Job, metrics: dict[str, np.ndarray], *, step: int, epoch: int, batch: int, steps: int, saved_step: int
) -> None:
    """Removes the first bad step from a chunk's metrics, and raises an error if configured.

    Raises:
      DivergedError: a loss, a gradient or the parameters of a network are not finite.
    """
    first = metrics.pop("first_not_finite")
    if job.training.on_nan == "skip":
        return
    bad = metrics.pop("not_finite")
    if not bad.any():
        return
    network = int(np.argmin(np.where(bad > 0, first, np.iinfo(np.int32).max)))
    at = int(first[network])
    which = "The network" if job.members == 1 else f"Network {network} of {job.members} (counted from 0)"
    kept = f"The last good checkpoint is that of step {saved_step:,}" if saved_step else "No checkpoint was saved yet"
    raise DivergedError(
        f"{which} has a loss or gradient that is not finite at step {step + at + 1:,}: epoch {epoch + 1}, batch "
        f"{batch + at + 1:,} of {steps:,}. {kept}; nothing later was written. Use a smaller "
        "--training.learning-rate or a --training.clip-norm in a new folder, or --training.on-nan skip to skip such "
        "steps out."
    )


def _check_overflow(metrics: dict[str, np.ndarray], *, step: int) -> None:
    """Checks that no network dropped values that its sparse code had no slots for.

    Raises:
      DivergedError: one did.
    """
    if "overflow" in metrics and (metrics["overflow"] > 0).any():
        raise DivergedError(
            f"After step {step:,} more latents were active than the code has slots for, up to "
            f"{metrics['overflow'].max():,.1f} of a batch on average; nothing later was written. Use a larger "
            "--model.most-k, or None to compute densely, or a higher --model.initial-threshold."
        )


def _check_progress(job: Job, collected: list[dict[str, np.ndarray]], *, epoch: int, steps: int) -> None:
    """Checks that not every step of a whole epoch was skipped; warns if only some networks have such an epoch.

    Raises:
      DivergedError: all networks have one.
    """
    if job.training.on_nan != "skip":
        return
    stuck = np.flatnonzero(sum(metrics["not_finite"] for metrics in collected) == steps)
    if not stuck.size:
        return
    which = "the network" if job.members == 1 else f"{stuck.size} of {job.members} networks"
    said = (
        f"All {steps:,} steps of epoch {epoch + 1} were skipped for {which}, because a loss, a gradient or the updated "
        "parameters were not finite; use a smaller --training.learning-rate or a --training.clip-norm in a new folder."
    )
    if stuck.size == job.members:
        raise DivergedError(said)
    warnings.warn(f"{said} The first is network {stuck[0]} (counted from 0).", SparsejaxWarning, stacklevel=2)


def examples_done(config: TrainingConfig, examples: int, epoch: int, position: int) -> int:
    """Returns the number of examples, including repetitions, that a network has processed at a position of an epoch."""
    first, other = (steps_per_epoch(examples, size) * size for size in map(config.batch_size_in, (0, 1)))
    whole = first + (epoch - 1) * other if epoch else 0
    return whole + position * config.batch_size_in(epoch)


def _chunks_of_data(
    job: Job, seed_key: Array, epoch: int, batch_size: int, done: int, length: int
) -> Iterator[Resident | Streamed]:
    """Yields the data of each chunk of an epoch, after `done` steps.

    This is the whole training set, with the next batches if all networks share them; or, for streaming, only these
    batches. `seed_key` is that of the first network.
    """
    seed = job.training.order_seed
    if seed is None and not job.config.data.streaming:
        yield from itertools.repeat(job.data, (steps_per_epoch(job.examples, batch_size) - done) // length)
        return
    key = jax.random.fold_in(seed_key if seed is None else jax.random.key(seed), ORDER)
    labels = jnp.asarray(job.data.labels) if job.config.data.balanced else None
    block = job.config.data.shuffle_block
    if block is None or not job.config.data.streaming:
        order: Any = epoch_order(key, jnp.int32(epoch), job.examples, batch_size, labels)
    else:
        seeds = tuple(int(word) for word in jax.random.key_data(key))
        order = BlockOrder(seeds, epoch, job.examples, batch_size, block)
    if not job.config.data.streaming:
        order = put_shared(order, job.placement)
        for start in range(done, len(order), length):
            yield job.data._replace(batches=order[start : start + length])
        return
    order = order if isinstance(order, BlockOrder) else np.asarray(order)
    split, columns = Split(job.data.images, job.data.labels), own_columns(batch_size, job.placement)  # type: ignore[arg-type]
    for images, labels in read_chunks(split, order, done=done, length=length, columns=columns):
        batches = put_batches(images, labels, batch_size, job.placement)
        yield Streamed(*batches, *put_shared((job.data.mean, job.data.std), job.placement))


def compile_chunk(job: Job, batch_size: int) -> tuple[Any, int]:
    """Returns the chunk for a batch size, compiled on its first call, and its number of steps."""
    length = chunk_length(steps_per_epoch(job.examples, batch_size))
    function = functools.partial(
        chunk, examples=job.examples, batch_size=batch_size, length=length,
        axis_name=job.placement.axis_name, shards=job.placement.shards,
    )  # fmt: skip
    return transform(function, job.placement, donate=True), length


def _epoch_line(epoch: int, epochs: int, collected: list[dict[str, Any]], scores: dict[str, Any], pace: str) -> str:
    loss = np.mean([metrics["loss"] for metrics in collected])
    told = [_figure(name, values) for name, values in scores.items() if name.startswith(("test_", "active_fraction"))]
    return f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {', '.join(told)}  {pace}"


def _figure(name: str, values: Any) -> str:
    """Returns a name with the mean and standard deviation over the networks, fractions in per cent."""
    form = ".4f" if name.endswith("loss") else ".2%"
    spread = f" ± {values.std():{form}}" if len(values) > 1 else ""
    return f"{name.replace('_fraction', '').replace('_', ' ')} {values.mean():{form}}{spread}"
