"""The sub-commands of `shoal`, one module each. They parse, call and show; the work is elsewhere.

Modules here import nothing heavy at their top, so that `shoal --help` is quick.
"""
