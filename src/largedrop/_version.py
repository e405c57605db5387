"""The version: the package's, the command line's and that of the files it writes."""

__version__ = "0.1.0"
