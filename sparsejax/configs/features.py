"""Sparse autoencoders of activations, word vectors, and worlds of known features."""

from sparsejax.models import SparseAutoencoder
from sparsejax.training.config import Config, DataConfig, EvaluationConfig, ObjectiveConfig, TrainingConfig

_EVALUATION = EvaluationConfig(batch_size=500, measures=("accuracy", "activity", "latents"), track=("latents",))


def train_autoencoder(
    network: SparseAutoencoder, data: DataConfig, *, epochs: int, batch_size: int, learning_rate: float, warmup: float
) -> Config:
    """Returns a configuration with the customary training: Adam, a linear warmup, and a linear decay at the end."""
    training = TrainingConfig(epochs=epochs, batch_size=batch_size, optimizer="adam", learning_rate=learning_rate,
                              warmup_epochs=warmup, schedule="linear", decay_fraction=0.2, clip_norm=1.0)  # fmt: skip
    return Config(network, data, training, _EVALUATION, objective=ObjectiveConfig("reconstruction"))


def sae_glove() -> Config:
    """2,000 latents of 54,000 GloVe word vectors, 10 active for each: half a minute on two cores."""
    network = SparseAutoencoder(hidden=2000, k=10, dead_after=500_000)
    return train_autoencoder(network, DataConfig("glove"), epochs=10, batch_size=512, learning_rate=1e-3, warmup=0.5)


def sae_world_small() -> Config:
    """512 latents of a small world of 1,024 known features, 5 active on average: half a minute on two cores."""
    network = SparseAutoencoder(hidden=512, activation="batch_top_k", k=5.0, dead_after=1_000_000)
    return train_autoencoder(
        network, DataConfig("world_small"), epochs=4, batch_size=512, learning_rate=1e-3, warmup=0.2
    )


def sae_world() -> Config:
    """4,096 latents of SynthSAEBench's world of 16,384 features: 200 million samples, for an accelerator."""
    network = SparseAutoencoder(hidden=4096, activation="batch_top_k", k=25.0)
    data = DataConfig("world", streaming=True, shuffle_block=1024)
    return train_autoencoder(network, data, epochs=1, batch_size=1024, learning_rate=3e-4, warmup=0.005)
