"""What a policy may see of an image, and what each look costs."""
