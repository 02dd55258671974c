"""Talk to the model: a chat page, WebChat, an OpenAI-compatible server."""
