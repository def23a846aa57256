# AdamW as for Swin detectors (https://arxiv.org/abs/2103.14030, Section A2.2). Use it by
#   optim_wrapper = dict(optimizer=dict(_delete_=True, **_base_.adamw))
# Fused into one kernel where PyTorch serves that (docs/kernels.md); the log says where it does not.
adamw = dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True)
