"""labctl's own load program: C source and prebuilt binaries, what it says, and how it is driven."""
