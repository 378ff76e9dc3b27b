"""The recipe of the weights that come with the package: data at training size in a file, then one command on a GPU."""
