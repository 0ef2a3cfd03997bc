"""Ablations: each file asks one question, `sweep` answers it with runs of the ordinary loop."""
