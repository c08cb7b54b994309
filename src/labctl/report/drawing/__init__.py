"""Geometry of the pictures: where boxes stand and how ways run between them. No text layout, no colours."""
