"""The latent variable model on learnt functions of space and time; no mesh is needed."""
