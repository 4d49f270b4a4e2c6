"""Every configuration on every image: the outcomes and what they say."""
