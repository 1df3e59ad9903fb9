"""Reports: pictures of models and searches, and the worked example of the course notes."""
