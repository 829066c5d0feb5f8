"""The REST door: OpenAI's Files and Batch API, and what operators need."""
