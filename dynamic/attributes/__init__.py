"""What of a dynamic layer is chosen per image: one module an attribute, found by :mod:`dynamic.attributes.registry`."""
