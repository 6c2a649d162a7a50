"""What a person looks at: pages of hits."""
