"""Moved to `shoal.checkpoint`; this name goes when nothing imports it."""

from shoal.checkpoint.files import StoredTensor as StoredTensor
from shoal.checkpoint.safetensors import read_safetensors as read_safetensors
