"""Names of other packages' weights -> ours; dicts in, dicts out."""
