"""Captures to sightings, sightings to paths, paths to signatures."""
