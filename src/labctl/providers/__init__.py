"""The things that build labs. Each provider is a package with the same file names; `base` is the seam."""
