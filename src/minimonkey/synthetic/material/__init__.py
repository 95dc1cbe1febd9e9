"""What is written and in which letters: words, wordings, contents, typefaces."""
