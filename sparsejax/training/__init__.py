"""Training: the step, the grid of networks, the devices that carry them, the loop, checkpoints and the run folder."""
