"""The front door: requests, pages, schemas."""
