"""Models: the bundled defaults, one frozen trunk with an adapter per role, sampling, the encoder, moderation heads."""
