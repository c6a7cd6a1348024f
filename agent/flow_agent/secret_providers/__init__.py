"""Where secrets come from: one module per provider."""
