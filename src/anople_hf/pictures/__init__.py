"""What is drawn: colors, heat maps over photos, charts, contact sheets, the paper's figures."""
