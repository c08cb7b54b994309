"""Two or more sides, measured in turns: the request, the sides, the measuring, the stored run."""
