"""Corruptions of images as batched torch operations: 15 for testing, 4 for validation, 5 severities."""
