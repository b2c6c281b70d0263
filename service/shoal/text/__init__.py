"""Between strings and token ids: tokenizing, detokenizing, stop strings, chat templates.

Knows no web and no torch. Start with `generator.py`.
"""
