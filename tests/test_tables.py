
import pytest

from cnn_jax.tables import human


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 "),
        (7, "7 "),
        (999, "999 "),
        (1_000, "1 k"),
        (61_706, "61.7 k"),
        (416_520, "417 k"),
        (1_000_000, "1 M"),
        (25_557_032, "25.6 M"),
        (4_089_184_256, "4.09 G"),
        (0.125, "0.125 "),
    ],
)
def test_numbers_for_people_have_three_digits_and_a_prefix(value, text):
    assert human(value) == text
