"""What sparse autoencoders find: known features, dead latents, stability, and word vectors."""
