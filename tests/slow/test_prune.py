"""A pruned model is the masked dense one, in every architecture."""

import pytest

from tests.compression.masked import CASES, check


@pytest.mark.parametrize("case", CASES)
def test_a_pruned_model_is_the_masked_dense_one(case):
    check(case)
