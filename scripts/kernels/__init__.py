"""What scripts/test-kernels is made of: packages, images, guests and their results."""
