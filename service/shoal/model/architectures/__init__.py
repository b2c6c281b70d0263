"""One file per family: config -> DecoderSpec, and which tensor of the file holds which weight.

A new family is one file here and one line in `registry.py`.
"""
