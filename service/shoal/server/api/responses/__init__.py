"""OpenAI's POST /v1/responses, stateless, as a chat of ours."""
