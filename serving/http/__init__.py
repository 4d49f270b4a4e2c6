"""HTTP: the front door, pages, schemas, the OpenAPI document."""
