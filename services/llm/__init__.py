"""Language models: OpenAI-compatible endpoints and the built-in responder."""
