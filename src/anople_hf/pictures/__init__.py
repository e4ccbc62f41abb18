"""Everything that is drawn: colors, heat maps over photos, charts, contact sheets, and the paper's figures."""
