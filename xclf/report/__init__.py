"""Reports: pictures of models, and the notes' worked example beside this library's numbers."""
