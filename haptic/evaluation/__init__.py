"""One harness for the numbers of this field: protocols, methods, other systems' results, tables."""
