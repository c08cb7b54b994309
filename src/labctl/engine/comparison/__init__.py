"""Two or more sides, measured in turns: what is asked, the sides, the measuring, what is stored."""
