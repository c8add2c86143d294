"""A test that catches a function which writes to its arguments. Run it: ``pytest examples/test_unwritten.py``.

It fails, as it should: ``score`` has a slip.
"""

import numpy as np


def score(weights, batch):
    weights *= 0.5  # meant: weights = weights * 0.5
    return batch @ weights


def test_score_leaves_its_arguments_alone(assert_unwritten):
    weights, batch = np.ones((1024, 64)), np.ones((8, 1024))
    with assert_unwritten(weights=weights, batch=batch):
        score(weights, batch)


def test_score_leaves_one_row_alone(assert_unwritten):
    weights, batch = np.ones((1024, 64)), np.ones((8, 1024))
    assert_unwritten(weights[100])
    score(weights, batch)
