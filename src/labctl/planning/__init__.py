"""Scenarios resolved into labs, and plans as text, JSON and shell. Pure."""
