"""The command line: arguments, progress, and a folder of outputs for every video."""
