"""A gallery served to people and programs: a page, a JSON API, and what keeps both within bounds."""
