"""Peers beside us: their code at the settings that they recommend, in one run on one machine."""
