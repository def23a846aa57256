"""What is written of a segmented study, a file format a module."""
