"""Pareto analysis of accuracy against bits."""
