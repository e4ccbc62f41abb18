"""Judging photos: one batch or a folder that grows, as tables, heat maps and a report."""
