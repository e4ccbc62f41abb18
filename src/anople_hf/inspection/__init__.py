"""Judges photos, one batch at a time or in a growing folder, and writes tables, heat maps and a report."""
