import pytest

from fedsweep.units import format_bits


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "0 bit"),
        (1023, "1023 bit"),
        (1024, "1.00 Kibit"),
        (153_575_360, "146.46 Mibit"),
        (532_278_400, "507.62 Mibit"),
        (10 * 532_278_400, "4.96 Gibit"),  # the tutorial's ten rounds
        (2**52, "4096.00 Tibit"),
    ],
)
def test_bits_are_shown_in_the_units_of_the_tutorial(bits, text):
    assert format_bits(bits) == text
