"""Figures and tables of "How Can We Be So Dense?" (Ahmad & Scheinkman, 2019)."""
