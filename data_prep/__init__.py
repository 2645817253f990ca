"""Raw files into what the package reads: one file per data set, and the builder of the open hand."""
