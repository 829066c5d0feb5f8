"""The door for dropped files: a file becomes a batch, and its results come back as files."""
