"""The models of this pipeline: functions that return an untrained estimator."""

from collections.abc import Sequence

from river import linear_model, optim, preprocessing
from river.base import Estimator
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier


def online() -> Estimator:
    """A logistic regression on standardised features."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(0.05))


def logistic(*, seed: int, categorical: Sequence[int]) -> LogisticRegression:
    """The same in batch."""
    del categorical
    return LogisticRegression(C=1.0, max_iter=500, random_state=seed)


def tree(*, seed: int, categorical: Sequence[int]) -> DecisionTreeClassifier:
    """A small tree."""
    del categorical
    return DecisionTreeClassifier(max_depth=5, min_samples_leaf=10, random_state=seed)
