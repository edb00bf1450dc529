"""The latent variable model, whatever u is made of."""
