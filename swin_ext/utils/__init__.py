"""What is not of this field: files, hashes, downloads, optional packages, errors."""
