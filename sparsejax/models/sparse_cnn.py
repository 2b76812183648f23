"""The convolutional networks of "How Can We Be So Dense?": each layer dense or sparse, ReLU or k-winners."""

from sparsejax.configuration import configuration, traced
from sparsejax.errors import ConfigError
from sparsejax.models.base import expect
from sparsejax.models.network import SparseNetwork, Stage


@configuration
class SparseCNN(SparseNetwork):
    """Convolutions, each followed by 2 x 2 max pooling and k-winners, then a hidden layer with sparse weights.

    The defaults are the paper's Sparse CNN-2, except for its `k_inference_factor` of 1.5. With ReLU, dense weights and
    `pool` 1 it is a plain convolutional network.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.2 and Table 3.
    """

    _winners = ("conv_k", "hidden_k")

    channels: tuple[int, ...] = (32, 64)
    """Filters of each convolution."""
    conv_k: tuple[int | None, ...] = traced((400, 300))
    """Winners of each convolution among all its units after pooling; None for ReLU."""
    conv_density: tuple[float, ...] | None = None
    """Fraction of non-zero weights of each convolution; None for dense ones, as in the paper."""
    kernel_size: int = 5
    """Height and width of the filters."""
    pool: int = 2
    """Height and width of the max pooling windows; 1 for no pooling."""
    hidden: int = 700
    """Units of the hidden layer."""
    hidden_k: int | None = traced(100)
    """Winners of the hidden layer; None for ReLU."""

    def check(self) -> None:
        super().check()
        count = len(self.channels)
        expect("model.channels", self.channels, "one or more positive numbers", min(self.channels, default=0) > 0)
        expect(
            "model.conv_k", self.conv_k, f"one entry for each of the {count} convolutions", len(self.conv_k) == count
        )
        densities = self.conv_density
        fractions = densities is None or (len(densities) == count and all(0 < density <= 1 for density in densities))
        expect("model.conv_density", densities, f"None or {count} fractions in (0, 1]", fractions)
        expect("model.kernel_size", self.kernel_size, "a positive number of pixels", self.kernel_size > 0)
        expect("model.pool", self.pool, "a positive number of pixels, 1 for no pooling", self.pool > 0)
        expect("model.hidden", self.hidden, "a positive number of units", self.hidden > 0)
        winners = self.hidden_k is None or 1 <= self.hidden_k <= self.hidden
        expect("model.hidden_k", self.hidden_k, f"None or a number of winners from 1 to {self.hidden}", winners)

    def stages(self, example_shape: tuple[int, ...]) -> list[Stage]:
        """Describes the hidden layers for images `[H, W, C]`.

        Raises:
          ConfigError: the images are too small for the convolutions.
        """
        if len(example_shape) != 3:
            raise ConfigError(f"An example has shape {example_shape}; a SparseCNN expects [height, width, channels].")
        height, width, inputs = example_shape
        stages, size = [], self.kernel_size
        for i, (filters, k) in enumerate(zip(self.channels, self.conv_k, strict=True)):
            image = (height, width)
            height, width = (height - size + 1) // self.pool, (width - size + 1) // self.pool
            if height < 1 or width < 1:
                raise ConfigError(
                    f"Images of shape {example_shape} are too small for {len(self.channels)} convolutions with "
                    f"kernels of {size} and pooling by {self.pool}: nothing is left after conv{i + 1}. Use fewer "
                    "model.channels or a smaller model.kernel_size."
                )
            density = self.conv_density[i] if self.conv_density else None
            kernel, positions = (size, size, inputs, filters), height * width
            stages.append(Stage(f"conv{i + 1}", kernel, k, density, positions, image, self.pool))
            inputs = filters
        stages.append(Stage("hidden", (inputs * height * width, self.hidden), self.hidden_k, self.density))
        return stages
