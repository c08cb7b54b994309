"""labctl: reproducible network labs that prove what a datapath does."""

__version__ = "0.1.0"
