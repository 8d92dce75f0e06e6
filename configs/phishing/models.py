"""The models of this pipeline: functions that return an untrained estimator."""

from river import linear_model, optim, preprocessing
from river.base import Estimator


def online() -> Estimator:
    """A logistic regression on standardised features."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(0.05))
