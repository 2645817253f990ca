"""One file per data set: its description and one function from its raw files to clips. They are found by being here."""
