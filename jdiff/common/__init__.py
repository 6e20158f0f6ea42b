"""What every part of jdiff may use: user errors, random keys, pictures."""
