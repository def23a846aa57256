"""Transforms of images: `load_cmr_image`, and `cmr_augmentations`, which need mmdet's masks."""
