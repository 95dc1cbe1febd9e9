"""The kinds of documents, a file each, and what several of them share."""
