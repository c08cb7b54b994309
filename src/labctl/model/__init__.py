"""What a lab is: pure data. No module in here reads, writes, runs or prints anything."""
