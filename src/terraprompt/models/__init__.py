"""Networks only: no files, no command line."""
