"""The class that fits a problem, and what each kind of model must have."""

import pytest

import pddlvm
from pddlvm.latent.core import LatentModel
from pddlvm.models import CollocationModel, GalerkinModel


def test_no_model_lacks_a_part():
    names = LatentModel.__abstractmethods__
    assert {"read", "forward", "inverse", "calibrate"} <= names
    for kind in (GalerkinModel, CollocationModel):
        assert not kind.__abstractmethods__


def test_a_kind_of_model_that_lacks_a_part_is_not_made():
    class Half(LatentModel):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half()


@pytest.mark.parametrize("kind", [pddlvm.GalerkinModel, pddlvm.CollocationModel])
def test_both_kinds_are_latent_variable_models(kind):
    assert issubclass(kind, pddlvm.LatentVariableModel)
