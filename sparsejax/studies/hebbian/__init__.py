"""Tables and figures of "Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations"."""
