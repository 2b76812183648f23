"""A network for spoken words: mel spectrograms are computed on the device, with augmentation in training."""

import jax
from jaxtyping import Array, Float, Key

from sparsejax.configuration import configuration, traced
from sparsejax.errors import ConfigError
from sparsejax.functional import augmentation, mel_power, power_to_db, stft_power
from sparsejax.functional.spectral import BANDS, frames_of
from sparsejax.models.base import Output, Variables, expect
from sparsejax.models.network import Stage
from sparsejax.models.sparse_cnn import SparseCNN

_AUGMENTATION = 1 << 16  # smaller numbers are folded into the keys of layers, larger ones into those of augmentations
_SHIFT = 8  # frames


@configuration
class SpeechCNN(SparseCNN):
    """A SparseCNN for waveforms of one second at 16 kHz `[batch, 16000]` in [-1, 1].

    Its inputs are mel spectrograms of 32 bands and 32 frames in decibels below the maximum. In training each clip is
    changed in amplitude, in speed and pitch, in speed only, and in time, each with probability `augment`. The change of
    amplitude is the paper's, but has no effect on features relative to the maximum.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.2.
    """

    augment: float | None = traced(0.5)
    """Probability of each of four augmentations of a clip in training; None for no augmentation."""

    inputs = "clips"

    def check(self) -> None:
        super().check()
        probable = self.augment is None or 0 <= self.augment <= 1
        expect("model.augment", self.augment, "None or a probability in [0, 1]", probable)

    def stages(self, example_shape: tuple[int, ...]) -> list[Stage]:
        """Describes the hidden layers for waveforms `[samples]`, or for their spectrograms `[bands, frames, 1]`.

        Raises:
          ConfigError: the waveforms are too short.
        """
        if len(example_shape) == 1:
            example_shape = (BANDS, frames_of(example_shape[0]), 1)
        elif len(example_shape) != 3 or example_shape[0] != BANDS:
            raise ConfigError(f"An example has shape {example_shape}; a SpeechCNN expects waveforms [samples].")
        return super().stages(example_shape)

    def seen(self, x: Float[Array, "batch samples"]) -> Float[Array, "batch bands frames 1"]:
        """Returns the spectrograms of waveforms without augmentation."""
        return _features(None, x, None)[..., None]

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch samples"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]` as `SparseCNN.apply`, for waveforms `[batch, samples]`.

        Raises:
          ValueError: key is missing in training with augmentation or dropout.
        """
        images = _features(key, x, self.augment if train else None)[..., None]
        return super().apply(variables, images, key=key, train=train, axis_name=axis_name)


def _features(
    key: Key[Array, "batch"] | None, waveform: Float[Array, "batch samples"], probability: float | Array | None
) -> Float[Array, "batch bands frames"]:
    """Returns mel spectrograms, with augmentation unless probability is None."""
    if probability is None:
        return power_to_db(mel_power(stft_power(waveform)))
    if key is None:
        raise ValueError("Training with model.augment needs `key`: one PRNG key per example [batch].")
    loud, fast, long, moved = (
        jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, _AUGMENTATION + i) for i in range(4)
    )
    waveform = augmentation.amplitude(loud, waveform, probability=probability)
    waveform = augmentation.speed(fast, waveform, probability=probability)
    power = stft_power(waveform)
    # Additional frames, so that a shift to the left includes what was stretched past the end.
    longer = augmentation.stretch(long, power, frames=power.shape[1] + _SHIFT, probability=probability)
    longer = augmentation.shift(moved, longer, frames=_SHIFT, probability=probability)
    return power_to_db(mel_power(longer[:, : power.shape[1]]))
