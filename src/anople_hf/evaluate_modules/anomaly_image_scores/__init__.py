"""The folder of one `evaluate` module, as it is uploaded to a Space.

Where in the paper: sec. 4.1.
"""
