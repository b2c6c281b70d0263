# Generated from _async/__init__.py by deploy/generate_sync_client.py; to update: make fix
"""The sync client, generated."""
