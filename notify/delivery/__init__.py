"""Deliver a notification to one recipient in four steps: decide, prepare, send, record."""
