"""Turns a plan into tokens: rows between steps, backends, sampling."""
