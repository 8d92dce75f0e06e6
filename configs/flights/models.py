"""The estimators of the flights pipeline."""

from collections.abc import Sequence

from river import base, linear_model, optim
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from registry.flavors.river_parts import Categories, SquashedScaler

GROUPS = ("carrier", "origin", "dest", "hour")
CROSSED = ("carrier*origin", "origin*hour", "carrier*hour", "origin*dest", "weekday*hour")


def online() -> base.Classifier:
    """A logistic regression that learns from one flight at a time: will it arrive 15 minutes late or more?

    Chosen by the figures from day 60 of 2013 on (benchmarks/README.md).
    """
    inputs = SquashedScaler(unit=10.0, limit=3.0) + Categories(*GROUPS, *CROSSED)
    return inputs | linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.03), intercept_lr=0.001)


def gradient_boosting(*, seed: int, categorical: Sequence[int]) -> HistGradientBoostingClassifier:
    """Gradient boosting over all that is known; a missing value goes the way that pays."""
    return HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.08,
        categorical_features=list(categorical),
        early_stopping=False,
        random_state=seed,
    )


def logistic(*, seed: int, categorical: Sequence[int]) -> LogisticRegression:
    """A logistic regression: what gradient boosting has to beat."""
    del categorical
    return LogisticRegression(C=0.1, max_iter=500, random_state=seed)
