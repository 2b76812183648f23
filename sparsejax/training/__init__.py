"""Training: the step, the grid of networks, the devices, the loop, checkpoints and the run folder."""
