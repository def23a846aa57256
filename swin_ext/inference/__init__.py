"""A trained model and a study in; masks, files and figures out."""
