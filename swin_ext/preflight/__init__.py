"""What is looked at before a GPU hour is spent: the data sets, the model and the files."""
