"""Large images, such as those of line-scan cameras, classified by overlapping tiles."""
