"""From scheduled kernels to object files: building, the disk cache, and the native run loop."""
