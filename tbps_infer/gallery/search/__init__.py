"""What decides which rows of a gallery a search reads, and reads them."""
