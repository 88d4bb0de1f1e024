"""renormalise."""
