"""Tests of the figures and the report."""
