"""The lab, `python -m fedsweep.lab`: what encoders lose and send on given vectors, without training."""
