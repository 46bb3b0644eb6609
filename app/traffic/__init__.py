"""A new version on a share of the episodes, or asked beside the active one without answering anybody."""
