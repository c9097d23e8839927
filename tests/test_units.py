import pytest

from fedsweep.units import format_bits, parse_bits


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


@pytest.mark.parametrize("bits", [1, 1023, 1024, 153_575_424, 2**41])
def test_bits_can_be_read_back(bits):
    assert parse_bits(str(bits)) == bits
    assert parse_bits(format_bits(bits)) == pytest.approx(bits, rel=0.01)
    assert parse_bits("1.5 Gibit") == parse_bits("1536Mibit") == 1536 * 2**20


@pytest.mark.parametrize("text", ["", "many", "-3", "1 Gbit", "1 GiB", "Mibit"])
def test_what_is_no_number_of_bits_is_refused(text):
    with pytest.raises(ValueError, match="number of bits"):
        parse_bits(text)
