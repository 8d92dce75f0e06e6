"""The estimators of the flights pipeline."""

from river import base, linear_model, optim, preprocessing

from registry.flavors.river_parts import ClippedScaler, OrderedSelect

CATEGORIES = ("carrier", "origin", "dest", "hour")


def online() -> base.Classifier:
    """A logistic regression that learns from one flight at a time: will it arrive 15 minutes late or more?"""
    numbers = ClippedScaler(limit=3.0)
    categories = OrderedSelect(*CATEGORIES) | preprocessing.OneHotEncoder(drop_zeros=True)
    return (numbers + categories) | linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.05))
