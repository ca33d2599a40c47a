"""Fusion of teachers: a common scale, a way of mixing, and what held-out images say of both."""
