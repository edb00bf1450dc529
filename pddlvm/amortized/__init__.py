"""Posteriors by networks trained on simulated data, and populations behind many data sets."""
