"""Sparse autoencoders: activations of networks, and measures of what latents find in them."""
