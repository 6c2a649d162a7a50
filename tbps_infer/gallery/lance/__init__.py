"""Galleries as Lance datasets, on a disk or in an object store: one table with many writers and many readers."""
