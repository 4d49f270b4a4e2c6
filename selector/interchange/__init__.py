"""Other people's formats and selectors."""
