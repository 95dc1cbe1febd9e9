"""The networks, a folder or a file for each family, and how weights get into them."""
