"""The report as a document: its parts in order, and its two renderings, Markdown and one HTML page.

Computes no number.
"""
