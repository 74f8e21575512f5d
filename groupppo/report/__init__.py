"""Tidy tables, figures and the page: everything between finished runs and a reader."""
