"""Rendered clips of hands whose truth is known: scenes drawn by chance, their motion, their look, their pictures."""
