"""The latent variable model on a reduced finite element basis."""
