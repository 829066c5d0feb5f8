"""Backends: the model servers that lines are sent to."""
