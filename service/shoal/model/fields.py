"""Moved to `shoal.checkpoint`; this name goes when nothing imports it."""

from shoal.checkpoint.fields import MAX_SIZE as MAX_SIZE
from shoal.checkpoint.fields import Fields as Fields
from shoal.checkpoint.read import read_json as read_json
