"""The folder of one `evaluate` module, as it is uploaded to a Space."""
