"""The estimators of the flights pipeline."""

from river import base, linear_model, optim

from registry.flavors.river_parts import Categories, SquashedScaler

GROUPS = ("carrier", "origin", "dest", "hour")
CROSSED = ("carrier*origin", "origin*hour", "carrier*hour", "origin*dest", "weekday*hour")


def online() -> base.Classifier:
    """A logistic regression that learns from one flight at a time: will it arrive 15 minutes late or more?

    Chosen by the figures from day 60 of 2013 on (benchmarks/README.md).
    """
    inputs = SquashedScaler(unit=10.0, limit=3.0) + Categories(*GROUPS, *CROSSED)
    return inputs | linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.03), intercept_lr=0.001)
