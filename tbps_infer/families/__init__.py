"""Model families of the field: how a checkpoint of each becomes a network of this project's own code."""
