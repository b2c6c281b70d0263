"""Shared by completions and chat: fields, task parameters, submission, responses."""
