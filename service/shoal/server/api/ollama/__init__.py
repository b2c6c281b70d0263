"""Ollama's API: POST /api/chat and /api/generate, and what its clients ask about models."""
